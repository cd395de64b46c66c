"""Requests of the Open Inference Protocol as tritonclient makes them, and their answers as it reads them."""

from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton

SHADES = "/v2/models/shades/infer"
INVERSE = "/v2/models/inverse/infer"
LENGTH = "Inference-Header-Content-Length"


def levels(*values: int) -> Any:
    """Flat pictures of the classifier's size."""
    return np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])


def asked(array: Any, name: str = "image", datatype: str = "UINT8", **options: Any) -> tuple[bytes, dict[str, str]]:
    """A body and its headers, made by tritonclient."""
    one = triton.InferInput(name, list(array.shape), datatype)
    one.set_data_from_numpy(array, binary_data=options.pop("binary", True))
    body, size = triton.InferenceServerClient.generate_request_body([one], **options)
    return body, {} if size is None else {LENGTH: str(size)}


def answered(response: httpx.Response, output: str) -> Any:
    assert response.status_code == 200, response.text
    size = response.headers.get(LENGTH)
    kind = "application/json" if size is None else "application/octet-stream"
    assert response.headers["content-type"] == kind
    result = triton.InferenceServerClient.parse_response_body(response.content, header_length=size and int(size))
    return result.as_numpy(output)


def said(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    text = response.json()["error"]
    assert isinstance(text, str)
    return text


async def ask(client: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await client.post(path, content=body, headers=headers)
