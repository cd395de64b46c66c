"""The Open Inference Protocol's routes in OpenAPI's terms."""

from collections.abc import Mapping
from typing import Any

from serve.oip.infer import INFER
from serve.oip.tensors import BYTES, TYPES
from serve.openapi.document import BINARY, MODEL_HEADERS, TEXT, URGENCY, VARIANT_HEADER, RouteDescription, object_of

_MODEL = "/v2/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_SIZES = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_COUNT = {"type": "integer", "minimum": 0}
_FLAG = {"type": "boolean"}
_DATATYPE = {"type": "string", "enum": [*TYPES, BYTES]}
_NAME = {"type": "string", "minLength": 1, "maxLength": 256}


def _listed(schema: Mapping[str, Any], most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": schema, **({} if most is None else {"minItems": 1, "maxItems": most})}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_INPUT = object_of(
    {
        "name": _NAME,
        "shape": {"type": "array", "items": _COUNT, "minItems": 1, "maxItems": 8},
        "datatype": _DATATYPE,
        "parameters": {"type": "object", "properties": {"binary_data_size": _COUNT}},
        "data": {"type": "array", "description": "Its values, nested as the shape or flat", "items": {}},
    },
    optional=("parameters", "data"),
)
_OUTPUT = object_of(
    {
        "name": _NAME,
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data": _FLAG,
                "classification": {**_COUNT, "description": 'The likeliest classes, as strings "value:index:label"'},
            },
        },
    },
    optional=("parameters",),
)
_TENSOR = {"name": TEXT, "datatype": _DATATYPE, "shape": _SIZES}
_INDEX = object_of({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT})
_DURATION = object_of({"count": _COUNT, "ns": _COUNT})
_STATS = object_of(
    {
        "name": TEXT,
        "version": TEXT,
        "last_inference": _COUNT,
        "inference_count": _COUNT,
        "execution_count": _COUNT,
        "inference_stats": {"type": "object", "additionalProperties": _DURATION},
        "batch_stats": _listed(
            object_of(
                {
                    "batch_size": _COUNT,
                    "compute_input": _DURATION,
                    "compute_infer": _DURATION,
                    "compute_output": _DURATION,
                }
            )
        ),
    }
)
_SCHEMAS: dict[str, Any] = {
    "OipError": object_of({"error": TEXT}),
    "OipInferRequest": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data_output": _FLAG,
                    "timeout": {**_COUNT, "description": "Microseconds from the request's first byte, or 0 for no end"},
                    "priority": {**_COUNT, "description": "1 is high, 2 normal, 3 and above low; 0 is as if left out"},
                },
            },
            "inputs": _listed(_INPUT, 16),
            "outputs": _listed(_OUTPUT, 16),
        },
        "required": ["inputs"],
    },
    "OipInferAnswer": object_of(
        {
            "id": TEXT,
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": _listed(
                object_of(
                    {
                        **_TENSOR,
                        "parameters": object_of({"binary_data_size": _COUNT}),
                        "data": {"type": "array", "items": {}},
                    },
                    optional=("parameters", "data"),
                )
            ),
        },
        optional=("id",),
    ),
    "OipMetadata": object_of(
        {
            "name": TEXT,
            "versions": _listed(TEXT),
            "platform": TEXT,
            "inputs": _listed(object_of(_TENSOR)),
            "outputs": _listed(object_of(_TENSOR)),
        }
    ),
}
_ERRORS = {
    400: "The request contradicts itself or its model, a row of it is no picture, or a model cannot be loaded",
    404: "There is no such model or version",
    408: "The body did not arrive in time",
    413: "Too many bytes, pixels or rows",
    415: "The body's Content-Encoding is not read here",
    429: "Too much in flight; Retry-After says when to come back",
    500: "The model failed on a row",
    503: "Warming up or shutting down",
    504: "The time that the request was given is over; its work is dropped",
}
_ERROR_EXAMPLE = {"error": "Request for unknown model: 'digit' is not found; did you mean 'digits'?"}
_INFER_EXAMPLE = {
    "inputs": [{"name": "image", "shape": [1, 2, 1, 3], "datatype": "UINT8", "data": [9, 8, 7, 6, 5, 4]}],
    "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
}  # fmt: skip
_SAMPLE = (
    "curl -H 'Inference-Header-Content-Length: 0' --data-binary @cat.jpg http://localhost:8000/v2/models/digits/infer"
)


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("OipError"), "example": _ERROR_EXAMPLE}}
    responses: dict[str, Any] = {
        str(status): {"description": _ERRORS[status], "content": content} for status in statuses
    }
    if "429" in responses:
        responses["429"]["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return responses


def _answer(schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in ("name", "version")
        if f"{{{name}}}" in path
    ]


def _infer(path: str) -> RouteDescription:
    answer = _answer(_ref("OipInferAnswer"), "The outputs; those wanted as binary data follow the JSON as raw bytes")
    answer["content"]["application/octet-stream"] = BINARY
    answer["headers"] = {
        "Inference-Header-Content-Length": {"description": "Bytes of JSON, if not all", "schema": {"type": "integer"}},
        **MODEL_HEADERS,
    }
    operation = {
        "tags": ["open inference protocol"],
        "summary": "Infer",
        "description": "Takes and gives tensors as JSON, or as raw bytes behind it (Triton's binary tensor data), "
        "compressed with gzip or deflate or not. A classifier takes pixels of its own size, or pictures as files, one "
        "per element of a BYTES tensor; a denoiser takes pictures of any size. A body without JSON is one picture. A "
        "model without a manifest, unverified, takes and gives the tensors that its metadata names.",
        "parameters": [
            *_parameters(path),
            VARIANT_HEADER,
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "required": False,
                "schema": {"type": "integer", "minimum": 0},
                "description": "Bytes of JSON, where raw tensors follow it",
            },
            *URGENCY,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("OipInferRequest"), "example": _INFER_EXAMPLE},
                "application/octet-stream": BINARY,
            },
        },
        "x-codeSamples": [{"lang": "Shell", "source": _SAMPLE}],
        "responses": {"200": answer, **_errors(*_ERRORS)},
    }
    return RouteDescription(_operation_id("infer", path), operation, _SCHEMAS, ("post",))


def _get(name: str, path: str, summary: str, schema: Mapping[str, Any], *, probe: bool = False) -> RouteDescription:
    answer = _answer(schema, summary)
    unready = {"503": {**answer, "description": "It is not"}} if probe else {}
    operation = {
        "tags": ["open inference protocol"],
        "summary": summary,
        "parameters": _parameters(path),
        "responses": {"200": answer, **unready, **(_errors(404) if "{" in path else {})},
    }
    return RouteDescription(_operation_id(name, path), operation, {}, ("get",))


def _post(name: str, path: str, summary: str, responses: Mapping[str, Any]) -> RouteDescription:
    operation = {
        "tags": ["open inference protocol"],
        "summary": summary,
        "parameters": _parameters(path),
        "responses": responses,
    }
    return RouteDescription(name, operation, {}, ("post",))


def _operation_id(name: str, path: str) -> str:
    return f"oip_{name}{'_version' if '{version}' in path else ''}"


_LIVE, _READY = object_of({"live": _FLAG}), object_of({"ready": _FLAG})
_MODEL_READY = object_of({"name": TEXT, "ready": _FLAG})
_SERVER = object_of({"name": TEXT, "version": TEXT, "extensions": _listed(TEXT)})
_ALL_STATS = object_of({"model_stats": _listed(_STATS)})
_CONFIG = {"type": "object", "description": "As Triton's model_config.proto has it"}


def _of_model(path: str) -> dict[str, RouteDescription]:
    return {
        path: _get("metadata", path, "What a model takes and gives", _ref("OipMetadata")),
        f"{path}/ready": _get("model_ready", path, "Is the model ready?", _MODEL_READY, probe=True),
        f"{path}/config": _get("config", path, "A model's configuration", _CONFIG),
        f"{path}/stats": _get("stats", path, "A model's statistics, of this protocol's requests", _ALL_STATS),
    }


_INDEXED = {
    "200": _answer(_listed(_INDEX), "Every version that is served or lies there"),
    **_errors(400, 408, 413, 429),
}
_DONE = _answer({"type": "object", "properties": {}}, "It was done")
_CONTROLLED = {"200": _DONE, **_errors(400, 404, 408, 413, 429)}

OIP_ROUTES: dict[str, RouteDescription] = {
    INFER: _infer(INFER),
    f"{_VERSION}/infer": _infer(_VERSION),
    "/v2": _get("server", "/v2", "What the server is", _SERVER),
    "/v2/health/live": _get("live", "/v2/health/live", "Is the server alive?", _LIVE, probe=True),
    "/v2/health/ready": _get("ready", "/v2/health/ready", "Is the server ready?", _READY, probe=True),
    **_of_model(_MODEL),
    **_of_model(_VERSION),
    "/v2/models/stats": _get("all_stats", "/v2/models/stats", "Statistics of all models", _ALL_STATS),
    "/v2/repository/index": _post("oip_index", "/v2/repository/index", "What is served?", _INDEXED),
    **{
        f"/v2/repository/models/{{name}}/{verb}": _post(f"oip_{verb}", "{name}", summary, _CONTROLLED)
        for verb, summary in (
            ("load", "Load a model from the repository, once more if it is served already"),
            ("unload", "Take a model out of service, once its requests are answered"),
        )
    },
}
