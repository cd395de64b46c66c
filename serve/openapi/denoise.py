"""POST and PUT /v1/denoise in OpenAPI's terms."""

from typing import Any

from serve.decoding import FORMATS
from serve.openapi.document import (
    BASE64,
    BINARY,
    MODEL,
    MODEL_HEADERS,
    TEXT,
    URGENCY,
    VARIANT,
    VARIANT_HEADER,
    RouteDescription,
    error_responses,
    object_of,
    query,
)
from serve.picture_format import FORMATS as ANSWERS
from serve.web.parameters import DEFAULT_QUALITY

_QUALITY = {
    "type": "integer",
    "minimum": 1,
    "maximum": 100,
    "default": DEFAULT_QUALITY,
    "description": "Of a JPEG or WebP; a PNG is exact",
}
STAGES = {
    "read": "reading the request's body",
    "decode": "decoding the picture",
    "queue": "the first tile's wait for the engine",
    "denoise": "all tiles, their waits included",
    "encode": "encoding the answer",
    "total": "from the request's first byte to its answer's first",
}
HEADERS: dict[str, Any] = {
    "Server-Timing": {
        "description": "Milliseconds: " + "; ".join(f"{stage}: {what}" for stage, what in STAGES.items()),
        "schema": TEXT,
        "example": "read;dur=4.1, decode;dur=88.0, queue;dur=0.2, denoise;dur=712.5, encode;dur=61.3, total;dur=869.0",
    },
    **MODEL_HEADERS,
    "X-Skipvit-Tiles": {
        "description": "Tiles that the picture was cut into",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-Skipvit-Note": {
        "description": "What was changed on purpose, if anything: 16 bits became 8, CMYK became RGB, a profile that no "
        "longer fits was dropped, transparent parts of a JPEG lie over white",
        "required": False,
        "schema": TEXT,
    },
}
_SAMPLES = [
    "curl -T noisy.png http://localhost:8000/v1/denoise -o clean.png",
    "curl -F image=@noisy.jpg -F quality=90 -H 'Accept: image/jpeg' http://localhost:8000/v1/denoise -o clean.jpg",
    "curl -T noisy.png -H 'Accept: image/webp' 'http://localhost:8000/v1/denoise?quality=80' -o clean.webp",
]


def _request_body() -> dict[str, Any]:
    json_schema = object_of(
        {"image": BASE64, "quality": _QUALITY, "model": MODEL, "variant": VARIANT},
        optional=("quality", "model", "variant"),
    )
    form_schema = {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "quality": _QUALITY,
            "model": MODEL,
            "variant": VARIANT,
        },
        "required": ["file"],
    }
    return {
        "required": True,
        "description": f"One picture: {', '.join(FORMATS)}; in a form, under any field name",
        "content": {
            "image/*": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": {"schema": form_schema},
            "application/json": {"schema": json_schema, "example": {"image": "iVBORw0KGgo...", "quality": 90}},
        },
    }


def _operation() -> dict[str, Any]:
    answer = {
        "description": "The picture without its noise: as large as it came, grey or in colour as it came, with its "
        "transparency, its ICC profile and its EXIF block",
        "headers": HEADERS,
        "content": dict.fromkeys(ANSWERS, BINARY),
    }
    return {
        "tags": ["inference"],
        "summary": "Denoise a picture",
        "description": "Takes the bytes of one picture of any size, a form with one file, or JSON with base64, and "
        "answers with a PNG, JPEG or WebP, as the Accept header says. PUT does the same, for `curl -T`.",
        "parameters": [
            query("model", MODEL),
            query("variant", VARIANT),
            VARIANT_HEADER,
            query("quality", _QUALITY),
            *URGENCY,
        ],
        "requestBody": _request_body(),
        "x-codeSamples": [{"lang": "Shell", "source": source} for source in _SAMPLES],
        "responses": {"200": answer, **error_responses({406: "None of the types that the Accept header names"})},
    }


DENOISE = RouteDescription("denoise", _operation())
