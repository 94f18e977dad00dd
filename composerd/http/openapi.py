"""The OpenAPI 3.0.3 documents, generated from the handlers. The only module that uses aiohttp-apispec."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp_apispec import AiohttpApiSpec, docs
from apispec import APISpec

from composerd.http.schemas import DURATION, WORD, Error
from composerd.models import JobState

Handler = TypeVar("Handler", bound=Callable[..., Any])

JSON = "application/json"
BYTES = "application/octet-stream"

ENDPOINT_NAMES: dict[Callable[..., Any], str] = {}
"""The names of the endpoints, by handler."""

_REF = "#/components/schemas/{name}"

_UUID = {"type": "string", "format": "uuid"}
_ERROR_ID = {"type": "string", "pattern": "^[0-9]{1,9}$"}
_WORD = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": WORD}
_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "id": _UUID,
    "token": _UUID,
    "worker_id": _UUID,
    "name": {"type": "string", "minLength": 1, "maxLength": 255},
    "wait": {"type": "string", "pattern": DURATION, "example": "5s"},
    "page": {"type": "integer", "minimum": 0, "maximum": 1000},
    "size": {"type": "integer", "minimum": 1, "maximum": 1000},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "state": {"type": "string", "enum": [state.value for state in JobState]},
    "type": _WORD,
    "channel": {"type": "string", "maxLength": 128},
    "arch": _WORD,
    "cursor": {"type": "string"},
}
"""The schemas of path and query parameters, by name."""


def endpoint(
    name: str,
    summary: str,
    *,
    request: type | str | None = None,
    responses: Mapping[int, tuple[str, type | str | None]],
    query: Mapping[str, str] | None = None,
) -> Callable[[Handler], Handler]:
    """Return a decorator that documents a handler.

    `name` is its `operationId` in the OpenAPI document. The type of a request or response body is a class of
    `schemas`, a media type for opaque bytes, or None for no body. `query` maps query parameters to descriptions.
    """
    documented: Callable[[Handler], Handler] = docs(
        operationId=name,
        summary=summary,
        parameters=[
            {"in": "query", "name": parameter, "description": description, "schema": _PARAMETERS[parameter]}
            for parameter, description in (query or {}).items()
        ],
        responses={
            str(status): {"description": description, "x-body": body}
            for status, (description, body) in responses.items()
        },
        **{"x-request": request},
    )

    def register(handler: Handler) -> Handler:
        ENDPOINT_NAMES[handler] = name
        return documented(handler)

    return register


class _Document(AiohttpApiSpec):  # type: ignore[misc]  # aiohttp_apispec ships no types
    """Builds an OpenAPI 3.0.3 document and leaves the handlers unchanged.

    aiohttp-apispec itself always builds OpenAPI 2.0, and modifies the data of the handlers that it documents.
    """

    def __init__(self, title: str, version: str, base: str) -> None:
        super().__init__(url=None, title=title, version=version)
        self.base = base
        self.types: dict[str, type] = {Error.__name__: Error}
        self.spec = APISpec(title=title, version=version, openapi_version="3.0.3", servers=[{"url": base}])

    def _register_route(self, route: web.AbstractRoute, method: str, view: Any) -> None:
        resource = route.resource
        if resource is None or method == "head" or not hasattr(view, "__apispec__"):
            return
        path = resource.canonical
        if not path.startswith(self.base + "/"):
            return
        found = copy.deepcopy(view.__apispec__)
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        documented: dict[str, Any] = {
            "operationId": found["operationId"],
            "summary": found["summary"],
            "parameters": [
                {
                    "in": "path",
                    "name": name,
                    "required": True,
                    "schema": _ERROR_ID if "/errors/" in path else _PARAMETERS[name],
                }
                for name in names
            ]
            + found["parameters"],
            "responses": {},
        }
        if found["x-request"] is not None:
            has_fields = bool(getattr(found["x-request"], "__struct_fields__", ()))  # a file may be empty
            documented["requestBody"] = {"required": has_fields, "content": self._content(found["x-request"])}
        for status, response in found["responses"].items():
            body = response.pop("x-body")
            documented["responses"][status] = response
            if body is not None:
                response["content"] = self._content(body)
        for status in ("4XX", "5XX"):
            documented["responses"][status] = {
                "description": "A predefined error",
                "content": self._content(Error),
            }
        self.spec.path(path=path.removeprefix(self.base), operations={method: documented})

    def _content(self, body: type | str) -> dict[str, Any]:
        if isinstance(body, str):
            schema = {"type": "string", "format": "binary"} if body == BYTES else {}
            return {body: {"schema": schema}}
        self.types[body.__name__] = body
        return {JSON: {"schema": {"$ref": _REF.format(name=body.__name__)}}}

    def finished(self) -> dict[str, Any]:
        """Return the document, with the schemas that its endpoints refer to."""
        _, components = msgspec.json.schema_components(list(self.types.values()), ref_template=_REF)
        for name, schema in sorted(components.items()):
            self.spec.components.schema(name, _as_openapi(schema))
        document: dict[str, Any] = self.spec.to_dict()
        return document


def document(app: web.Application, title: str, version: str, base: str) -> bytes:
    """Return the OpenAPI document of the routes of `app` below `base`, as JSON.

    Every endpoint is documented to answer 4XX and 5XX with a predefined error.
    """
    spec = _Document(title, version, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)  # aiohttp-apispec keeps its state under string keys
        spec.register(app, in_place=True)
    return msgspec.json.encode(spec.finished())


def _as_openapi(schema: Any) -> Any:
    """Translate a JSON Schema of msgspec's (draft 2020-12) to OpenAPI 3.0."""
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [_as_openapi(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: _as_openapi(value)
        for key, value in schema.items()
        if key not in ("anyOf", "examples") and (key, value) != ("required", [])
    }
    if "examples" in schema and schema["examples"] and "properties" not in schema:
        plain["example"] = schema["examples"][0]
    if "enum" in plain:
        plain["type"] = "string"
    if "anyOf" in schema:
        some = [_as_openapi(one) for one in schema["anyOf"] if one != {"type": "null"}]
        if len(some) == 1:
            plain = {**some[0], **plain} if "$ref" not in some[0] else {"allOf": some, **plain}
        elif some:
            plain["anyOf"] = some
        if len(some) < len(schema["anyOf"]):
            plain["nullable"] = True
    return plain
