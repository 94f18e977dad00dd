"""Arguments that a request carries in its path and its query, and the path pattern that takes them."""

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes
from uuid import UUID

from aiohttp import web

from composerd.errors import InvalidArtifactName, InvalidContent, InvalidCursor, JobNotFound
from composerd.http.errors import ErrorTable, InvalidToken
from composerd.http.keys import COMPOSER_ERRORS, SETTINGS, WORKER_ERRORS
from composerd.http.request_context import identity, known_job_id
from composerd.ids import parse_uuid
from composerd.queue import Lookup, stored_token
from composerd_protocol.file_names import problem_with
from composerd_protocol.units import format_duration, parse_duration

MAX_PAGE = 1000
"""The most items that a page of a listing can have."""


LONGEST_WAIT = 600.0
"""The longest `wait` in seconds that is not an error, whatever the server allows."""


def segment(name: str, *, empty: bool = False) -> str:
    """Return the pattern of a variable path segment, which matches every character except a slash.

    aiohttp's own pattern (`{name}`) also excludes braces.
    """
    return f"{{{name}:[^/]{'*' if empty else '+'}}}"


def job_of(request: web.Request) -> Lookup:
    """Return the job that the path names, as its sender is to look it up, and note its id for the log.

    Raises `JobNotFound` if its id is not a UUID.
    """
    job_id = parse_uuid(request.match_info["id"])
    if job_id is None:
        raise JobNotFound(id=request.match_info["id"])
    known_job_id.set(str(job_id))
    return Lookup(job_id, identity.get().scope)


def given_token_of(request: web.Request) -> UUID:
    """Return the token in the path, as its worker got it. Raises `InvalidToken` if it is not a UUID."""
    token = parse_uuid(request.match_info["token"])
    if token is None:
        raise InvalidToken
    return token


def stored_token_of(given: UUID) -> UUID:
    """Return the token under which the storage knows an attempt, if it is of the identity that sent the request."""
    return stored_token(given, identity.get().key)


def artifact_name_of(request: web.Request) -> str:
    """Return the artifact name in the path, decoded from the path as it was sent. Raises `InvalidArtifactName`."""
    sent = request.raw_path.partition("?")[0].rpartition("/")[2]
    name = unquote_to_bytes(sent).decode(errors="surrogateescape")
    if (problem := problem_with(name)) is not None:
        raise InvalidArtifactName(problem=problem)
    return name


def wait_of(request: web.Request) -> float | None:
    """Return the `wait` of the query in seconds, at most the server's limit, or None if there is none.

    Raises `InvalidContent`.
    """
    if not request.query_string or (text := request.query.get("wait")) is None:
        return None
    try:
        wait = parse_duration(text)
    except ValueError as exc:
        raise InvalidContent(field="wait", problem=str(exc)) from None
    longest = request.app[SETTINGS].max_wait
    if wait > max(longest, LONGEST_WAIT):
        raise InvalidContent(field="wait", problem=f"must be at most {format_duration(max(longest, LONGEST_WAIT))}")
    return min(wait, longest)


def number_of(request: web.Request, name: str, *, default: int, least: int, most: int = 1000) -> int:
    """Return a number of the query, or `default` if it is missing.

    Raises `InvalidContent` if it is not a whole number from `least` to `most`.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,4}", text) or not least <= int(text) <= most:
        raise InvalidContent(field=name, problem=f"must be a number from {least} to {most}")
    return int(text)


def query_of(request: web.Request, *known: str, repeatable: str | None = None) -> dict[str, str]:
    """Return the parameters of a listing. Raises `InvalidCursor` for one that is unknown, or is there twice."""
    query = dict(request.query)
    if unknown := query.keys() - set(known):
        raise InvalidCursor(field=min(unknown), problem="there is no such filter")
    for name in query:
        if name != repeatable and len(request.query.getall(name)) > 1:
            raise InvalidCursor(field=name, problem="must be given once")
    return query


def limit_of(query: Mapping[str, str], default: int) -> int:
    """Return how many items the page of a listing may have. Raises `InvalidCursor` if that is not allowed."""
    limit = query.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise InvalidCursor(field="limit", problem=f"must be a number from 1 to {MAX_PAGE}")
    return int(limit)


def error_table_of(request: web.Request) -> ErrorTable:
    """Return the error table of the API that the request belongs to; outside both APIs, the worker API's."""
    path = request.path
    composer = request.app[COMPOSER_ERRORS]
    if path.startswith(composer.base) and path[len(composer.base) :][:1] in ("", "/"):
        return composer
    return request.app[WORKER_ERRORS]
