"""The web application with both APIs over a queue. Creating it opens nothing and starts nothing."""

import time
from collections.abc import Mapping

from aiohttp import web

from composerd.artifacts.files import Files
from composerd.http.admission import Admission
from composerd.http.cursors import CURSORS, Cursors
from composerd.http.cut_answers import CutAnswers
from composerd.http.endpoints import (
    artifacts,
    attempts,
    downloads,
    jobs,
    listings,
    registration,
    status,
    whoami,
    worker,
    workers,
)
from composerd.http.errors import ErrorTable
from composerd.http.identifying import Identifier
from composerd.http.keys import (
    ADMISSION,
    ARTIFACTS,
    COMPOSER_ERRORS,
    CUT_ANSWERS,
    IDENTIFIER,
    METRICS,
    OPENAPI,
    QUEUE,
    SETTINGS,
    WORKER_ERRORS,
    RequestMetrics,
)
from composerd.http.openapi import document
from composerd.http.paths import BASES, Bases
from composerd.http.turns import TURNS, Turns
from composerd.identity.sources import Identities
from composerd.queue import JobQueue
from composerd.settings import Settings
from composerd.version import VERSION

_WORKER_API = """Hands jobs to workers, and takes their files and results. Wire compatible with osbuild-composer's.

`location` and `artifact_location` of a job are to be used as they are: resolve them against the address of the server.
Integers of `args` may have any length, and numbers any exponent: decode them with that in mind.

A server with identities needs a bearer token, unless a client certificate or the unix socket says who the client is.
"""
_COMPOSER_API = """Takes jobs, and tells how they go on and what came of them.

`args`, `result` and `partial` are kept byte for byte: `GET /jobs/{id}/args` and `GET /jobs/{id}/result` return them so.

A server with identities needs a bearer token, unless a client certificate or the unix socket says who the client is.
"""


def create_app(
    queue: JobQueue,
    settings: Settings,
    metrics: RequestMetrics,
    files: Files | None,
    admission: Admission,
    identities: Identities,
) -> web.Application:
    """Return the application that serves a running queue. Without `files`, uploads of artifacts are refused.

    It is to be run with `composerd.http.connection.Runner`, which turns failures into predefined errors.
    """
    app = web.Application(client_max_size=settings.max_body_size)
    app[QUEUE] = queue
    app[SETTINGS] = settings
    app[ARTIFACTS] = files
    app[ADMISSION] = admission
    app[IDENTIFIER] = Identifier(identities, admission.clients)
    app.on_cleanup.append(app[IDENTIFIER].close)
    app[CURSORS] = Cursors(queue.driver.secret)
    app[TURNS] = Turns()
    app[CUT_ANSWERS] = CutAnswers(time.monotonic, queue.options.handover_timeout)
    app[METRICS] = metrics
    app[BASES] = bases = Bases.of(settings)
    app[WORKER_ERRORS] = ErrorTable.worker(bases.worker)
    app[COMPOSER_ERRORS] = ErrorTable.composer(bases.composer)
    add_routes(app)
    app[OPENAPI] = openapi_documents(app)
    return app


def add_routes(app: web.Application) -> None:
    """Add the routes of every endpoint, below the base paths of `app`."""
    worker.add_routes(app)
    registration.add_routes(app)
    attempts.add_routes(app)
    artifacts.add_routes(app)
    jobs.add_routes(app)
    workers.add_routes(app)
    whoami.add_routes(app)
    listings.add_routes(app)
    downloads.add_routes(app)
    for base in (app[BASES].worker, app[BASES].composer):
        status.add_api_routes(app, base)
    status.add_site_routes(app)


def openapi_documents(app: web.Application) -> Mapping[str, bytes]:
    """Return the OpenAPI documents of both APIs, by base path."""
    worker_base, composer_base = app[BASES].worker, app[BASES].composer
    return {
        worker_base: document(app, "composerd worker API", _WORKER_API, VERSION, worker_base),
        composer_base: document(app, "composerd composer API", _COMPOSER_API, VERSION, composer_base),
    }
