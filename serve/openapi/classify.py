"""POST and PUT /v1/classify in OpenAPI's terms."""

from typing import Any

from serve.classify import DEFAULT_TOP_K
from serve.decoding import FORMATS
from serve.openapi.document import (
    BASE64,
    BINARY,
    MODEL,
    MODEL_HEADERS,
    REQUEST_ID,
    TEXT,
    URGENCY,
    VARIANT,
    VARIANT_HEADER,
    RouteDescription,
    error_responses,
    object_of,
    query,
)

_ANSWER_EXAMPLE = {
    "id": REQUEST_ID,
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

_STAGES = {
    "read": "reading the request's body",
    "decode": "decoding the picture and bringing it to the model's size",
    "queue": "waiting for the engine",
    "infer": "the engine's run of the whole batch that the picture was in: with batch_size 1, of this picture alone",
    "total": "from the request's first byte to its answer",
}


def _times(*stages: str) -> dict[str, Any]:
    return object_of(
        {stage: {"type": "number", "minimum": 0, "description": f"Milliseconds: {_STAGES[stage]}"} for stage in stages}
    )


_TOP_K = {
    "type": "integer",
    "minimum": 1,
    "maximum": 999_999_999,
    "default": DEFAULT_TOP_K,
    "description": "Number of predictions, best first; all classes if there are fewer",
}
_PARTS = {"type": "array", "items": {"type": "string", "format": "binary"}}

_SCHEMAS: dict[str, Any] = {
    "Prediction": object_of(
        {
            "label": TEXT,
            "index": {"type": "integer", "minimum": 0},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
        }
    ),
    "Result": object_of(
        {
            "file": {"type": ["string", "null"]},
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            "timing_ms": _times("decode", "queue", "infer"),
            "batch_size": {"type": "integer", "minimum": 1, "description": "Pictures in the same run of the model"},
            "error": {"$ref": "#/components/schemas/Problem"},
        },
        optional=("predictions", "timing_ms", "batch_size", "error"),
    ),
    "Answer": object_of(
        {
            "id": TEXT,
            "model": object_of({"name": TEXT, "version": TEXT}),
            "group": {**TEXT, "description": "That the request was for, if it was for one: the model is a variant"},
            "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
            "timing_ms": _times("read", "total"),
        },
        optional=("group",),
    ),
}


_SAMPLES = [
    "curl -T cat.jpg -H 'Content-Type: image/jpeg' 'http://localhost:8000/v1/classify?top_k=3'",
    "curl -F file=@one.png -F file=@two.png -F top_k=3 http://localhost:8000/v1/classify",
    'curl --json "{\\"image\\": \\"$(base64 -w0 cat.jpg)\\"}" http://localhost:8000/v1/classify',
]


def _request_body() -> dict[str, Any]:
    properties = {
        "image": BASE64,
        "images": {"type": "array", "items": BASE64, "minItems": 1},
        "top_k": _TOP_K,
        "model": MODEL,
        "variant": VARIANT,
    }
    json_schema = object_of(properties, optional=tuple(properties))
    json_schema["oneOf"] = [{"required": ["image"]}, {"required": ["images"]}]
    form_schema = {
        "type": "object",
        "properties": {"file": _PARTS, "top_k": _TOP_K, "model": MODEL, "variant": VARIANT},
        "required": ["file"],
    }
    return {
        "required": True,
        "description": f"{', '.join(FORMATS)}; in a form, one file or many under any field names",
        "content": {
            "image/*": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": {"schema": form_schema},
            "application/json": {"schema": json_schema, "example": {"image": "iVBORw0KGgo...", "top_k": 3}},
        },
    }


def _operation() -> dict[str, Any]:
    answer = {
        "description": "Predictions for each picture; in a request of many, some may hold an error instead",
        "headers": MODEL_HEADERS,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}, "example": _ANSWER_EXAMPLE}
        },
    }
    return {
        "tags": ["inference"],
        "summary": "Classify pictures",
        "description": "Takes the bytes of one picture, a form with files, or JSON with base64. "
        "PUT does the same, for `curl -T`.",
        "parameters": [
            query("model", MODEL),
            query("variant", VARIANT),
            VARIANT_HEADER,
            query("top_k", _TOP_K),
            *URGENCY,
        ],
        "requestBody": _request_body(),
        "x-codeSamples": [{"lang": "Shell", "source": source} for source in _SAMPLES],
        "responses": {"200": answer, **error_responses()},
    }


CLASSIFY = RouteDescription("classify", _operation(), _SCHEMAS)
