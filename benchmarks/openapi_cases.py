"""Requests that the server's OpenAPI document describes, and such as it does not, made and judged by schemathesis."""

from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error

from serve.oip.infer import INFER
from serve.openapi.oip import OIP_ROUTES
from serve.tasks import ROUTES, SAMPLE

Mode = schemathesis.GenerationMode
DESCRIBED, OTHER = Mode.POSITIVE, Mode.NEGATIVE
_PICTURES = [(method, ROUTES[task]) for task in ("classification", "denoising") for method in ("POST", "PUT")]
_ROUTES = [*_PICTURES, ("POST", ROUTES["video-denoising"])]

OPERATIONS: list[tuple[str, str, Mode]] = [
    *((method, path, mode) for method, path in _ROUTES for mode in (DESCRIBED, OTHER)),
    *(("GET", path, DESCRIBED) for path in ("/livez", "/readyz", "/v1/models", "/v1/status", SAMPLE)),
    *((method.upper(), path, DESCRIBED) for path, route in OIP_ROUTES.items() for method in route.methods),
    ("POST", INFER, OTHER),
]
"""Method, path, and whether the requests are as described."""
# Random bytes are no picture and a random name no model: what fits the schema may well be refused.
_IGNORED = [schemathesis.checks.positive_data_acceptance]
_ANSWER_WITHIN_S = 60.0


def api_of(url: str) -> Any:
    """What the server at ``url`` says of itself."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.checks.negative_data_rejection.expected_statuses += ["413"]  # a refusal as good as any
    return schema


def validate(case: Any) -> None:
    """Sends a case, and compares the answer with what the server says of it.

    Raises:
        schemathesis.core.failures.FailureGroup: they do not agree, each difference by a class of its own.
        requests.RequestException: no answer came.
    """
    answer = case.call(timeout=_ANSWER_WITHIN_S)
    # A case may give the server a millisecond, and it is no failure of the server's to say so.
    out_of_time = [not_a_server_error] if answer.status_code == 504 else []
    lost = [schemathesis.checks.negative_data_rejection] if loses_lists(case) else []
    case.validate_response(answer, excluded_checks=[*_IGNORED, *out_of_time, *lost])


def loses_lists(case: Any) -> bool:
    """Whether a case has a list where a form takes one value, which may go out as the document has it.

    Of an empty list nothing is sent, and of a list of one its item: the server cannot know what was meant.
    """
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return False
    known = case.operation.get_body_for_media_type(case.media_type).form_properties
    many = {name for name, schema in known.items() if schema.get("type") == "array"}
    return any(isinstance(value, list) and len(value) < 2 for name, value in case.body.items() if name not in many)
