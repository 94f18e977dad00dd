"""What every request goes through: an operation id, and one place where exceptions become predefined errors."""

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from composerd.errors import BodyTooLarge, ComposerdError, DriverError, StorageFull, Unavailable
from composerd.http.context import CONNECTIONS, METRICS, OPERATION_HEADER, QUEUE, error_table, held, operation_id
from composerd.http.errors import (
    UNSPECIFIED,
    MethodNotSupported,
    ResourceNotFound,
)
from composerd.ids import new_id_text

log = logging.getLogger(__name__)


@web.middleware
async def operations(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its operation id, and answer every failure with an error of the API's table."""
    operation = new_id_text()
    operation_id.set(operation)
    try:
        request.app[CONNECTIONS].check()
        response = await handler(request)
    except ComposerdError as exc:
        response = _failure(request, operation, exc)
    except web.HTTPException as exc:
        response = _http_failure(request, operation, exc)
    except ConnectionError:
        response = _hang_up(request)  # the client has gone
    except Exception:
        log.exception("%s %s failed", request.method, _path(request))
        table = error_table(request)
        response = table.response(table.row(UNSPECIFIED), operation)
    finally:
        if size := held.get():
            held.set(0)
            request.app[QUEUE].budget.give(size)
    if not response.prepared:  # who writes its answer itself has named the operation in it
        if request.writer.output_size:  # it failed in the middle of an answer: a second one would be read as its rest
            response = _hang_up(request)
        response.headers[OPERATION_HEADER] = operation
    request.app[METRICS].served(request.match_info.handler, response.status)
    return response


def _path(request: web.Request) -> str:
    """The path for the log: whoever reads a token there could finish the job."""
    token = request.match_info.get("token")
    return request.path.replace(token, "TOKEN") if token else request.path


def _hang_up(request: web.Request) -> web.Response:
    """End the connection; what is returned is not read by anybody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


def _failure(request: web.Request, operation: str, error: ComposerdError) -> web.Response:
    table = error_table(request)
    row = table.row_of(error)
    if row.status >= 500:
        cause = error.__cause__ if isinstance(error, DriverError) else None  # the others say it all
        log.warning("%s %s: %s: %s", request.method, _path(request), error.code, error, exc_info=cause)
    # What the storage says of itself may name its paths and addresses: that is for the log, not for the client.
    internal = isinstance(error, (DriverError, StorageFull)) or (
        isinstance(error, Unavailable) and "limit" not in error.details
    )
    return table.response(row, operation, None if internal else error.details)


def _http_failure(request: web.Request, operation: str, error: web.HTTPException) -> web.StreamResponse:
    table = error_table(request)
    mapped: ComposerdError
    if isinstance(error, web.HTTPMethodNotAllowed):
        mapped = MethodNotSupported(allowed=sorted(error.allowed_methods))
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        mapped = BodyTooLarge(limit=request.client_max_size)
    elif error.status < 400:
        return error
    else:
        mapped = ResourceNotFound()
    response = table.response(table.row_of(mapped), operation, mapped.details)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response
