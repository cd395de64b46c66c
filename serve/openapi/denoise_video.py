"""POST and PUT /v1/denoise/video in OpenAPI's terms."""

from typing import Any

from serve.openapi.denoise import HEADERS, STAGES
from serve.openapi.document import BINARY, MODEL, TEXT, URGENCY, RouteDescription, error_responses, object_of, query
from serve.video.container import KINDS
from serve.video.denoise import LINES, MAX_SIGMA, VIDEO_TYPES

_SIGMA = {
    "type": "number",
    "minimum": 0,
    "maximum": MAX_SIGMA,
    "description": "Standard deviation of the noise, in 1/255, rounded to a whole number; measured on the clip's first "
    "frames if left out",
}
_NEWS = object_of(
    {
        "done": {"type": "integer", "minimum": 1, "description": "Frames that are finished"},
        "frames": {"type": ["integer", "null"], "description": "Frames of the clip, if its container says so"},
    }
)
_LAST = object_of(
    {
        "clip": {"type": "string", "format": "byte", "description": "The clip in base64"},
        "type": {"const": "video/mp4"},
        "frames": {"type": "integer", "minimum": 1},
        "sigma": {"type": "integer", "minimum": 0, "maximum": int(MAX_SIGMA)},
        "tiles": {"type": "integer", "minimum": 1},
        "notes": {"type": "array", "items": TEXT},
        "timing_ms": object_of({stage: {"type": "number", "minimum": 0} for stage in STAGES}),
    }
)
_NOTE = {
    "description": "What was changed on purpose, if anything, and the noise that was measured: the sound was dropped, "
    "frames were turned upright, 10 bits became 8",
    "required": False,
    "schema": TEXT,
}
_SAMPLES = [
    "curl -T noisy.mp4 http://localhost:8000/v1/denoise/video -o clean.mp4",
    "curl -T noisy.mkv -H 'Accept: video/x-matroska' 'http://localhost:8000/v1/denoise/video?sigma=30' -o clean.mkv",
    "curl -N -T noisy.mp4 -H 'Accept: application/x-ndjson' http://localhost:8000/v1/denoise/video",
]


def _request_body() -> dict[str, Any]:
    form_schema = {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}, "sigma": _SIGMA, "model": MODEL},
        "required": ["file"],
    }
    return {
        "required": True,
        "description": f"One short clip: {KINDS}; in a form, under any field name",
        "content": {
            "video/*": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": {"schema": form_schema},
        },
    }


def _operation() -> dict[str, Any]:
    lines = {"oneOf": [_NEWS, _LAST, {"$ref": "#/components/schemas/Error"}]}
    answer = {
        "description": "The clip without its noise: as large as it came, its frames at the times they came with. "
        "video/mp4 is H.264 for players, video/x-matroska is FFV1 and exact. application/x-ndjson is a JSON line for "
        "each finished part and a last one with the clip or with an error that came up on the way; its notes and "
        "times are in that line, not in headers",
        "headers": {
            **{name: {**header, "required": False} for name, header in HEADERS.items()},
            "X-Skipvit-Note": _NOTE,
        },
        "content": {kind: {"schema": lines} if kind == LINES else BINARY for kind in VIDEO_TYPES},
    }
    return {
        "tags": ["inference"],
        "summary": "Denoise a clip",
        "description": "Takes the bytes of one short clip, or a form with one file, and answers with a clip, or with "
        "news while it is worked on, as the Accept header says. Sound is dropped. PUT does the same, for `curl -T`.",
        "parameters": [query("model", MODEL), query("sigma", _SIGMA), *URGENCY],
        "requestBody": _request_body(),
        "x-codeSamples": [{"lang": "Shell", "source": source} for source in _SAMPLES],
        "responses": {"200": answer, **error_responses({406: "None of the types that the Accept header names"})},
    }


DENOISE_VIDEO = RouteDescription("denoise_video", _operation())
