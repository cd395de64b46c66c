"""The description agrees with the server: schemathesis finds no undocumented status, type or body, and no 500."""

import base64
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from benchmarks.openapi_cases import OPERATIONS, api_of, validate
from serve.oip.infer import INFER
from serve.openapi.oip import OIP_ROUTES
from serve.tasks import ROUTES, SAMPLE
from tests.serve.servers import png

CLASSIFY, DENOISE, VIDEO = ROUTES["classification"], ROUTES["denoising"], ROUTES["video-denoising"]


@pytest.fixture(scope="module")
def api(url: str) -> Any:
    return api_of(url)


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS, ids=[f"{m}{p}-{g.value}" for m, p, g in OPERATIONS])
def test_the_server_does_what_it_says(api: Any, method: str, path: str, mode: schemathesis.GenerationMode) -> None:
    operation = api[path][method]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        validate(case)

    check()


def test_real_answers_have_the_described_shape(api: Any, url: str) -> None:
    images = [base64.b64encode(data).decode() for data in (png(255), b"no picture")]
    response = httpx.post(f"{url}{CLASSIFY}?top_k=2", json={"images": images})
    assert response.status_code == 200
    api[CLASSIFY]["POST"].validate_response(response)


def test_answers_of_the_open_inference_protocol_have_the_described_shape(api: Any, url: str) -> None:
    pixels = {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [9] * 192}
    for outputs in ([], [{"name": "probabilities", "parameters": {"classification": 2}}]):
        response = httpx.post(url + INFER.format(name="shades"), json={"inputs": [pixels], "outputs": outputs})
        assert response.status_code == 200
        api[INFER]["POST"].validate_response(response)
    for path, route in OIP_ROUTES.items():
        if "get" in route.methods:
            response = httpx.get(url + path.format(name="shades", version="1"))
            assert response.status_code == 200
            api[path]["GET"].validate_response(response)
    api["/v2/repository/index"]["POST"].validate_response(httpx.post(f"{url}/v2/repository/index"))


def test_the_page_of_the_api_shows_every_operation(url: str) -> None:
    spec = httpx.get(f"{url}/openapi.json").json()
    assert list(spec["paths"]) == [
        CLASSIFY,
        DENOISE,
        VIDEO,
        *OIP_ROUTES,
        "/livez",
        "/readyz",
        "/v1/models",
        "/v1/status",
        SAMPLE,
    ]
    post = spec["paths"][CLASSIFY]["post"]
    assert set(post["requestBody"]["content"]) == {
        "image/*",
        "application/octet-stream",
        "multipart/form-data",
        "application/json",
    }
    stages = spec["components"]["schemas"]["Result"]["properties"]["timing_ms"]["properties"]
    assert "the engine's run" in stages["infer"]["description"]
    assert set(post["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
