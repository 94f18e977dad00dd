"""The OpenAPI 3.1 documents, generated from the handlers. The only module that uses aiohttp-apispec.

3.1 because its way to say that a field may be null is the one that every generator of clients understands.
"""

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp_apispec import AiohttpApiSpec, docs
from apispec import APISpec

from composerd.http.components import (
    BEARER,
    ERROR_ID,
    EVERYWHERE,
    EXAMPLES,
    HEADERS,
    INFO,
    PARAMETERS,
    REQUEST_HEADERS,
    TAGS,
)
from composerd.http.schemas import Error, UpdateJob
from composerd.identity.permissions import PERMISSIONS
from composerd.models import JobState

Handler = TypeVar("Handler", bound=Callable[..., Any])

JSON = "application/json"
BYTES = "application/octet-stream"

ENDPOINT_NAMES: dict[Callable[..., Any], str] = {}
"""The names of the endpoints of both APIs, by handler."""

OPERATIONS: dict[Callable[..., Any], str] = {}
"""The names of all operations, by handler, as `composerd.identity.permissions` has them."""

_REF = "#/components/schemas/{name}"


def endpoint(
    name: str,
    summary: str,
    *,
    description: str,
    request: type | str | None = None,
    responses: Mapping[int, tuple[str, type | str | None]],
    query: Mapping[str, str] | None = None,
    takes: Sequence[str] = (),
    gives: Mapping[int, Sequence[str]] | None = None,
) -> Callable[[Handler], Handler]:
    """Return a decorator that documents a handler.

    `name` is its `operationId` in the OpenAPI document. The type of a request or response body is a class of
    `schemas`, a media type for opaque bytes, or None for no body. `query` maps query parameters to descriptions,
    `takes` names headers of the request, and `gives` those of the answers, by status, that not every answer has.
    """
    documented: Callable[[Handler], Handler] = docs(
        operationId=name,
        summary=summary,
        description=description,
        parameters=[
            {"in": "query", "name": parameter, "description": about, "schema": PARAMETERS[parameter]}
            for parameter, about in (query or {}).items()
        ]
        + [
            {"in": "header", "name": header, "description": REQUEST_HEADERS[header], "schema": {"type": "string"}}
            for header in takes
        ],
        responses={
            str(status): {"description": about, "x-body": body, "x-headers": (gives or {}).get(status, ())}
            for status, (about, body) in responses.items()
        },
        **{"x-request": request},
    )

    def register(handler: Handler) -> Handler:
        ENDPOINT_NAMES[handler] = OPERATIONS[handler] = name
        return documented(handler)

    return register


def operation(name: str) -> Callable[[Handler], Handler]:
    """Return a decorator that names the operation of a handler which belongs to neither API."""

    def register(handler: Handler) -> Handler:
        OPERATIONS[handler] = name
        return handler

    return register


class _Document(AiohttpApiSpec):  # type: ignore[misc]  # aiohttp_apispec ships no types
    """Builds an OpenAPI 3.1 document and leaves the handlers unchanged.

    aiohttp-apispec itself always builds OpenAPI 2.0, and modifies the data of the handlers that it documents.
    """

    def __init__(self, title: str, description: str, version: str, base: str) -> None:
        super().__init__(url=None, title=title, version=version)
        self.base = base
        self.types: dict[str, type] = {Error.__name__: Error}
        self.tags: set[str] = set()
        self.headers: set[str] = set()
        self.spec = APISpec(
            title=title,
            version=version,
            openapi_version="3.1.0",
            info={"description": description, **INFO},
            servers=[{"url": base}],
            # A server without identities needs no token. Client certificates belong to the connection, and
            # openapi-generator knows no `mutualTLS`.
            security=[{"bearer": []}, {}],
        )
        self.spec.components.security_scheme("bearer", dict(BEARER))

    def _register_route(self, route: web.AbstractRoute, method: str, view: Any) -> None:
        resource = route.resource
        if resource is None or method == "head" or not hasattr(view, "__apispec__"):
            return
        path = resource.canonical
        if not path.startswith(self.base + "/"):
            return
        path = path.removeprefix(self.base)
        found = copy.deepcopy(view.__apispec__)
        tag = _tag(path)
        self.tags.add(tag)
        documented: dict[str, Any] = {
            "operationId": found["operationId"],
            "tags": [tag],
            "summary": found["summary"],
            "description": found["description"],
            "parameters": [
                {
                    "in": "path",
                    "name": name,
                    "required": True,
                    "schema": ERROR_ID if path.startswith("/errors/") else PARAMETERS[name],
                }
                for name in re.findall(r"\{(\w+)\}", path)
            ]
            + found["parameters"],
            "responses": {},
        }
        if PERMISSIONS[found["operationId"]] is None:
            documented["security"] = []
        if any(parameter["name"] == "state" for parameter in found["parameters"]):
            self.types[JobState.__name__] = JobState
        if found["x-request"] is not None:
            body = found["x-request"]
            has_fields = bool(getattr(body, "__struct_fields__", ()))  # a file may be empty
            required = has_fields and not getattr(body, "may_be_missing", False)
            documented["requestBody"] = {"required": required, "content": self._content(body)}
        for status, response in found["responses"].items():
            body, more = response.pop("x-body"), response.pop("x-headers")
            documented["responses"][status] = response | {"headers": self._headers(*EVERYWHERE, *more)}
            if body is not None:
                response = documented["responses"][status]
                response["content"] = self._content(body)
        documented["responses"]["4XX"] = {"$ref": "#/components/responses/Refused"}
        failed = "ReadFailed" if method == "get" else "WriteFailed"
        documented["responses"]["5XX"] = {"$ref": f"#/components/responses/{failed}"}
        self.spec.path(path=path, operations={method: documented})

    def _headers(self, *names: str) -> dict[str, Any]:
        self.headers.update(names)
        return {name: {"$ref": f"#/components/headers/{name}"} for name in names}

    def _content(self, body: type | str) -> dict[str, Any]:
        if isinstance(body, str):
            schema = {"type": "string", "format": "binary"} if body == BYTES else {}
            return {body: {"schema": schema}}
        name = body.__name__
        self.types[name] = body
        return {JSON: {"schema": {"$ref": _REF.format(name=name)}, "example": EXAMPLES[name]}}

    def finished(self) -> dict[str, Any]:
        """Return the document, with everything that its endpoints refer to."""
        if UpdateJob.__name__ in self.types:
            self.types |= {one.__name__: one for one in UpdateJob.either}
        _, schemas = msgspec.json.schema_components(list(self.types.values()), ref_template=_REF)
        if UpdateJob.__name__ in schemas:
            either = [{"$ref": _REF.format(name=one.__name__)} for one in UpdateJob.either]
            schemas[UpdateJob.__name__] = {"description": schemas[UpdateJob.__name__]["description"], "oneOf": either}
        components = self.spec.components
        for name, schema in sorted(schemas.items()):
            components.schema(name, _as_openapi(schema))
        for name, description, more in (
            ("Refused", "A predefined error: the request cannot be granted as it is.", ("Retry-After",)),
            ("ReadFailed", "A predefined error: the server cannot answer now.", ("Retry-After",)),
            (
                "WriteFailed",
                "A predefined error: the server cannot do it now, or does not know whether it is done.",
                (),
            ),
        ):
            answer = {"description": description, "headers": self._headers(*EVERYWHERE, *more)}
            components.response(name, answer | {"content": self._content(Error)})
        for name, (description, schema) in HEADERS.items():
            if name in self.headers:
                components.header(name, {"description": description, "schema": schema})
        for name, description in TAGS.items():
            if name in self.tags:
                self.spec.tag({"name": name, "description": description})
        document: dict[str, Any] = self.spec.to_dict()
        return document


def document(app: web.Application, title: str, description: str, version: str, base: str) -> bytes:
    """Return the OpenAPI document of the routes of `app` below `base`, as JSON.

    Every endpoint is documented to answer 4XX and 5XX with a predefined error.
    """
    spec = _Document(title, description, version, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)  # aiohttp-apispec keeps its state under string keys
        spec.register(app, in_place=True)
    return msgspec.json.encode(spec.finished())


def _tag(path: str) -> str:
    """Return the tag of the operations on a path."""
    if "/artifacts" in path:
        return "artifacts"
    first = path.split("/")[1]
    return first if first in TAGS else "server"


def _as_openapi(schema: Any) -> Any:
    """Return a schema of msgspec's in the form that generators of clients understand best.

    A field that may be null has a list of types. A default is not named, since some generators take such a field for
    required, and others send it always: the description says what the server takes.
    """
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [_as_openapi(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _as_openapi(value)
        for key, value in schema.items()
        if key not in ("anyOf", "default") and (key, value) != ("required", [])
    }
    if "enum" in plain:
        plain["type"] = "string"
    some = [_as_openapi(one) for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if not some:
        return plain
    if len(some) == 1 and "$ref" not in some[0]:
        plain = {**some[0], **plain}
        if "type" in plain:  # without a type, a value may be anything, null too
            plain["type"] = [plain["type"], "null"]
    else:
        plain["anyOf"] = [*some, {"type": "null"}]
    return plain
