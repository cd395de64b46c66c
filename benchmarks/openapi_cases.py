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
    case.validate_response(answer, excluded_checks=[*_IGNORED, *out_of_time])
