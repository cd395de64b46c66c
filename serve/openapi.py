"""The hot route described by hand for OpenAPI: it is no FastAPI route, so FastAPI cannot know what it takes."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serve.classify import DEFAULT_TOP_K
from serve.decoding import FORMATS
from serve.tasks import ROUTES

CLASSIFY = ROUTES["classification"]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ID = "5f0c9d1e6a7b8c9d"
_ERROR_EXAMPLE = {
    "error": {
        "code": "truncated_image",
        "message": "'cat.jpg' is cut short: it ends after 20480 bytes, before the picture does",
        "hint": "send the whole file; compare its size with the original's",
    },
    "id": _ID,
}
_ANSWER_EXAMPLE = {
    "id": _ID,
    "model": {"name": "digits", "version": "1"},
    "results": [
        {
            "file": "seven.png",
            "predictions": [
                {"label": "7", "index": 7, "probability": 0.981204},
                {"label": "1", "index": 1, "probability": 0.011873},
            ],
            "timing_ms": {"decode": 0.41, "queue": 0.06, "infer": 0.35},
            "batch_size": 1,
        }
    ],
    "timing_ms": {"read": 0.12, "total": 1.31},
}
_ERRORS = {
    400: "The picture is empty, truncated, of another format, or contradicts its header",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "Too many bytes, pixels, frames or files",
    415: "The body's Content-Type is not read here",
    422: "A field is missing, malformed or unknown",
    429: "Too many pictures in flight; Retry-After says when to come back",
    500: "The model failed on this picture",
    503: "Warming up or shutting down",
}


def _object(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_STAGES = {
    "read": "reading the request's body",
    "decode": "decoding the picture and bringing it to the model's size",
    "queue": "waiting for the engine",
    "infer": "the engine's run of the whole batch that the picture was in: with batch_size 1, of this picture alone",
    "total": "from the request's first byte to its answer",
}


def _times(*stages: str) -> dict[str, Any]:
    return _object(
        {stage: {"type": "number", "minimum": 0, "description": f"Milliseconds: {_STAGES[stage]}"} for stage in stages}
    )


_TEXT: dict[str, Any] = {"type": "string"}
_TOP_K = {
    "type": "integer",
    "minimum": 1,
    "maximum": 999_999_999,
    "default": DEFAULT_TOP_K,
    "description": "Number of predictions, best first; all classes if there are fewer",
}
_MODEL = {"type": "string", "description": "One of GET /v1/models; the first if left out"}
_BASE64 = {"type": "string", "format": "byte", "description": "A file's bytes in base64; a data: URL will do"}
_PARTS = {"type": "array", "items": {"type": "string", "format": "binary"}}

_SCHEMAS: dict[str, Any] = {
    "Problem": _object({"code": _TEXT, "message": _TEXT, "hint": _TEXT}),
    "Error": _object({"error": {"$ref": "#/components/schemas/Problem"}, "id": _TEXT}),
    "Prediction": _object(
        {
            "label": _TEXT,
            "index": {"type": "integer", "minimum": 0},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
        }
    ),
    "Result": _object(
        {
            "file": {"type": ["string", "null"]},
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            "timing_ms": _times("decode", "queue", "infer"),
            "batch_size": {"type": "integer", "minimum": 1, "description": "Pictures in the same run of the model"},
            "error": {"$ref": "#/components/schemas/Problem"},
        },
        optional=("predictions", "timing_ms", "batch_size", "error"),
    ),
    "Answer": _object(
        {
            "id": _TEXT,
            "model": _object({"name": _TEXT, "version": _TEXT}),
            "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
            "timing_ms": _times("read", "total"),
        }
    ),
}


_SAMPLES = [
    "curl -T cat.jpg -H 'Content-Type: image/jpeg' 'http://localhost:8000/v1/classify?top_k=3'",
    "curl -F file=@one.png -F file=@two.png -F top_k=3 http://localhost:8000/v1/classify",
    'curl --json "{\\"image\\": \\"$(base64 -w0 cat.jpg)\\"}" http://localhost:8000/v1/classify',
]


def _request_body() -> dict[str, Any]:
    properties = {
        "image": _BASE64,
        "images": {"type": "array", "items": _BASE64, "minItems": 1},
        "top_k": _TOP_K,
        "model": _MODEL,
    }
    json_schema = _object(properties, optional=tuple(properties))
    json_schema["oneOf"] = [{"required": ["image"]}, {"required": ["images"]}]
    form_schema = {
        "type": "object",
        "properties": {"file": _PARTS, "top_k": _TOP_K, "model": _MODEL},
        "required": ["file"],
    }
    return {
        "required": True,
        "description": f"{', '.join(FORMATS)}; in a form, one file or many under any field names",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {"schema": form_schema},
            "application/json": {"schema": json_schema, "example": {"image": "iVBORw0KGgo...", "top_k": 3}},
        },
    }


def error_response(description: str) -> dict[str, Any]:
    """An error in OpenAPI's terms."""
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": _ERROR_EXAMPLE}},
    }


def _operation(operation_id: str) -> dict[str, Any]:
    answer = {
        "description": "Predictions for each picture; in a request of many, some may hold an error instead",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}, "example": _ANSWER_EXAMPLE}
        },
    }
    responses = {str(status): error_response(text) for status, text in _ERRORS.items()}
    responses["429"]["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return {
        "tags": ["inference"],
        "operationId": operation_id,
        "summary": "Classify pictures",
        "description": "Takes the bytes of one picture, a form with files, or JSON with base64. "
        "PUT does the same, for `curl -T`.",
        "parameters": [
            {"name": "model", "in": "query", "required": False, "schema": _MODEL},
            {"name": "top_k", "in": "query", "required": False, "schema": _TOP_K},
        ],
        "requestBody": _request_body(),
        "x-codeSamples": [{"lang": "Shell", "source": source} for source in _SAMPLES],
        "responses": {"200": answer, **responses},
    }


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What ``app.openapi`` becomes: FastAPI's own schema with the hot route added, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            operations = {"post": _operation("classify"), "put": _operation("classify_put")}
            schema["paths"] = {CLASSIFY: operations, **schema["paths"]}
            schema.setdefault("components", {}).setdefault("schemas", {}).update(_SCHEMAS)
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi
