"""Inference routes described by hand for OpenAPI: they are no FastAPI routes, so FastAPI cannot know what they take.

Here is what their descriptions share; each has one of its own.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serve.errors import OIP
from serve.urgency import LONGEST_S, PRIORITY, SHORTEST_S, TIMEOUT, Priority

REQUEST_ID = "5f0c9d1e6a7b8c9d"  # in examples
_ERROR_EXAMPLE = {
    "error": {
        "code": "truncated_image",
        "message": "'cat.jpg' is cut short: it ends after 20480 bytes, before the picture does",
        "hint": "send the whole file; compare its size with the original's",
    },
    "id": REQUEST_ID,
}
_ERRORS = {
    400: "The picture is empty, truncated, of another format, or contradicts its header",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "Too many bytes, pixels, frames or files",
    415: "The body's Content-Type is not read here",
    422: "A field is missing, malformed or unknown, or the model is for another task",
    429: "Too much in flight; Retry-After says when to come back",
    500: "The model failed on this picture",
    503: "Warming up or shutting down",
    504: "The time that X-Request-Timeout or the server gives a request is over; its work is dropped",
}
URGENCY: list[dict[str, Any]] = [
    {
        "name": TIMEOUT,
        "in": "header",
        "required": False,
        "description": "Seconds from the request's first byte to the first of its answer, a decimal number; the "
        "server may allow fewer",
        "schema": {"type": "number", "minimum": SHORTEST_S, "maximum": LONGEST_S},
    },
    {
        "name": PRIORITY,
        "in": "header",
        "required": False,
        "description": "Whose turn comes first",
        "schema": {"type": "string", "enum": [priority.name.lower() for priority in Priority], "default": "normal"},
    },
]
"""Headers of every inference route."""


def object_of(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A JSON object with these properties and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT: dict[str, Any] = {"type": "string"}
BINARY = {"schema": {"type": "string", "format": "binary"}}
BASE64 = {"type": "string", "format": "byte", "description": "A file's bytes in base64; a data: URL will do"}
MODEL = {
    "type": "string",
    "description": "A model or group of GET /v1/models; if left out, the default group or first model of the task",
}
_WHICH = 'One of the group\'s variants by name, or "exact" for its first; if left out, the load decides'
VARIANT = {"type": "string", "description": _WHICH}
VARIANT_HEADER: dict[str, Any] = {
    "name": "X-Skipvit-Variant",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": _WHICH,
}
MODEL_HEADERS: dict[str, Any] = {
    "X-Skipvit-Model": {
        "description": "Name and version of the model",
        "schema": {"type": "string"},
        "example": "digits_skipat/1",
    },
    "X-Skipvit-Group": {
        "description": "The group that the request was for, if it was for one: the model is a variant of it",
        "required": False,
        "schema": {"type": "string"},
    },
}

_SCHEMAS: dict[str, Any] = {
    "Problem": object_of({"code": TEXT, "message": TEXT, "hint": TEXT}),
    "Error": object_of({"error": {"$ref": "#/components/schemas/Problem"}, "id": TEXT}),
}


@dataclass(frozen=True)
class RouteDescription:
    """One route: what is the same for its methods but their operation id, and the schemas that it refers to."""

    name: str
    operation: Mapping[str, Any]
    schemas: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ("post", "put")

    def operations(self) -> dict[str, Any]:
        """All methods, as OpenAPI wants them."""
        first = self.methods[0]
        names = {method: self.name if method == first else f"{self.name}_{method}" for method in self.methods}
        return {method: {**self.operation, "operationId": name} for method, name in names.items()}


def error_response(description: str) -> dict[str, Any]:
    """An error in OpenAPI's terms."""
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": _ERROR_EXAMPLE}},
    }


def error_responses(more: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The errors of every inference route, and ``more`` of this one."""
    responses = {str(status): error_response(text) for status, text in sorted({**_ERRORS, **(more or {})}.items())}
    responses["429"]["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return responses


def query(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """An optional parameter of the URL."""
    return {"name": name, "in": "query", "required": False, "schema": schema}


def openapi_of(
    app: FastAPI, described: Mapping[str, RouteDescription], public: Collection[str] | None = None
) -> Callable[[], dict[str, Any]]:
    """What ``app.openapi`` becomes: FastAPI's own schema with the ``described`` routes added, made once.

    All paths but those in ``public`` need a key; without ``public`` none does.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            ours = {path: route.operations() for path, route in described.items()}
            schema["paths"] = {**ours, **schema["paths"]}
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(_SCHEMAS)
            for route in described.values():
                schemas.update(route.schemas)
            if public is not None:
                _lock(schema, public)
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi


def _lock(schema: dict[str, Any], public: Collection[str]) -> None:
    """Adds to a description of all routes that they need a key, and what they answer without."""
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of this server"},
        "key": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "The same in a header of its own",
        },
    }
    for path, operations in schema["paths"].items():
        if path in public:
            continue
        for operation in operations.values():
            operation["security"] = [{"bearer": []}, {"key": []}]
            operation["responses"] = {**operation["responses"], **{s: _refusal(path, s) for s in _REFUSALS}}


_REFUSALS = {"401": "No API key came, or one that is not known", "403": "The key has no scope for this"}


def _refusal(path: str, status: str) -> dict[str, Any]:
    response = error_response(_REFUSALS[status])
    if path.startswith(OIP):
        response["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/OipError"}}}
    response["headers"] = {"WWW-Authenticate": {"schema": TEXT}} if status == "401" else {}
    return response
