"""The web application: both APIs over a queue, put together. Pure: nothing is opened here."""

import importlib.metadata
import sys
from collections.abc import Mapping

from aiohttp import web

from composerd.artifacts.files import Files
from composerd.http.client_certificates import only_from
from composerd.http.context import (
    ARTIFACTS,
    COMPOSER_BASE,
    COMPOSER_ERRORS,
    CONNECTIONS,
    METRICS,
    OPENAPI,
    OPTIONS,
    QUEUE,
    WORKER_ERRORS,
    ApiOptions,
    ConnectionLimit,
    RequestMetrics,
)
from composerd.http.endpoints import jobs, status, worker
from composerd.http.errors import ErrorTable
from composerd.http.middleware import operations
from composerd.http.openapi import document
from composerd.queue import JobQueue

VERSION = importlib.metadata.version("composerd")


def create_app(
    queue: JobQueue,
    options: ApiOptions,
    metrics: RequestMetrics,
    files: Files | None = None,
    connections: ConnectionLimit | None = None,
) -> web.Application:
    """The application that serves a running queue; without a place for files uploads are refused."""
    middlewares = [operations, only_from(options.allowed_domains)] if options.allowed_domains else [operations]
    app = web.Application(middlewares=middlewares, client_max_size=options.max_body_size)
    app[QUEUE] = queue
    app[OPTIONS] = options
    app[ARTIFACTS] = files
    app[CONNECTIONS] = connections or ConnectionLimit(sys.maxsize)
    app[METRICS] = metrics
    app[WORKER_ERRORS] = ErrorTable.worker(options.worker_base)
    app[COMPOSER_ERRORS] = ErrorTable.composer(COMPOSER_BASE)
    add_routes(app, options.worker_base)
    app[OPENAPI] = openapi_documents(app, options.worker_base)
    return app


def add_routes(app: web.Application, worker_base: str) -> None:
    """Put every operation on its place."""
    worker.add_routes(app, worker_base)
    jobs.add_routes(app)
    for base in (worker_base, COMPOSER_BASE):
        status.add_api_routes(app, base)
    status.add_site_routes(app)


def openapi_documents(app: web.Application, worker_base: str) -> Mapping[str, bytes]:
    """The two OpenAPI documents, by base path."""
    return {
        worker_base: document(app, "composerd worker API", VERSION, worker_base),
        COMPOSER_BASE: document(app, "composerd composer API", VERSION, COMPOSER_BASE),
    }
