"""Models that are not ours over the Open Inference Protocol: any tensors in and out, by Triton's own client."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.foreign_asking import FOUR, KINDS, NAMES, pair, tensor, write_all
from tests.serve.oip_asking import said
from tests.serve.servers import over_socket


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("foreign-models")
    write_all(root)
    settings = Settings(decode_threads=1, access_log=False, max_body_bytes=1 << 20)
    with over_socket(Repository.open(root, settings), settings) as url:
        yield url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    client = triton.InferenceServerClient(address, concurrency=4)
    yield client
    client.close()


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_simple_http_infer_client(client: Any, coding: str | None) -> None:
    first, second = np.arange(16, dtype=np.int32)[None], np.full((1, 16), -1, np.int32)
    for binary in (True, False):
        inputs = [tensor("INPUT0", first, binary=binary), tensor("INPUT1", second)]
        outputs = [triton.InferRequestedOutput(f"OUTPUT{k}", binary_data=k == 0) for k in (0, 1)]
        for wanted in (outputs, outputs[:1], None):
            result = client.infer(
                "simple", inputs, outputs=wanted, query_params={"test_1": 1}, headers={"test": "1"},
                request_compression_algorithm=coding, response_compression_algorithm=coding,
            )  # fmt: skip
            assert np.array_equal(result.as_numpy("OUTPUT0"), first + second)
            if wanted is None or len(wanted) == 2:
                assert np.array_equal(result.as_numpy("OUTPUT1"), first - second)
            else:
                assert result.as_numpy("OUTPUT1") is None
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.infer("wrong_model_name", inputs)


def test_simple_http_health_metadata(client: Any) -> None:
    metadata = client.get_model_metadata("simple", query_params={"test_1": 1, "test_2": 2})
    assert (metadata["name"], metadata["platform"], metadata["versions"]) == ("simple", "onnxruntime_onnx", ["1"])
    assert metadata["inputs"] == [{"name": name, "datatype": "INT32", "shape": [-1, 16]} for name in NAMES]
    assert [one["name"] for one in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert client.is_model_ready("simple")
    for model in client.get_model_repository_index():
        config = client.get_model_config(model["name"])
        assert json_format.Parse(json.dumps(config), model_config_pb2.ModelConfig()).name == model["name"]
    config = client.get_model_config("simple")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, [16])
    assert client.get_model_config("whole")["max_batch_size"] == 0
    assert client.get_model_metadata("whole")["inputs"][0]["shape"] == [2, 3]


def test_simple_http_async_infer_client(client: Any) -> None:
    first = np.arange(16, dtype=np.int32)[None]
    requests = [client.async_infer("simple", pair(first * k, first)) for k in range(20)]
    for k, request in enumerate(requests):
        assert np.array_equal(request.get_result().as_numpy("OUTPUT0"), first * (k + 1))


def test_simple_http_aio_infer_client(address: str) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            first = np.arange(16, dtype=np.int32)[None]
            results = await asyncio.gather(*(client.infer("simple", pair(first * k, first)) for k in range(20)))
            for k, result in enumerate(results):
                assert np.array_equal(result.as_numpy("OUTPUT1"), first * (k - 1))

    asyncio.run(main())


def test_simple_http_string_infer_client(client: Any) -> None:
    first, second = np.arange(16), np.ones(16, int)
    as_text = [np.array([str(n).encode() for n in values], np.object_)[None] for values in (first, second)]
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput(f"OUTPUT{k}", binary_data=binary) for k in (0, 1)]
        result = client.infer("simple_string", pair(*as_text), outputs=outputs)
        assert [int(text) for text in result.as_numpy("OUTPUT0")[0]] == list(first + second)
        assert [int(text) for text in result.as_numpy("OUTPUT1")[0]] == list(first - second)
    with pytest.raises(InferenceServerException, match="not UTF-8"):
        client.infer("simple_string", pair(as_text[0], np.array([[b"\xff"] * 16], np.object_)))


@pytest.mark.parametrize("datatype", KINDS)
def test_every_datatype_comes_back_as_it_went(client: Any, datatype: str) -> None:
    """In binary and in JSON; FP16 goes as binary data only, as with Triton's client."""
    values = np.array([[0, 1, 1], [1, 0, 100]])
    if datatype == "BYTES":
        values = np.array([[b"", b"caf\xc3\xa9", b"a\0b"], [b"x", b"y" * 70, b"0"]], np.object_)
    else:
        values = values.astype(triton_to_np_dtype(datatype))
    for binary in (True, False):
        if datatype == "FP16" and not binary:
            continue
        outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary)]
        result = client.infer(f"same-{datatype}", [tensor("INPUT0", values, binary=binary)], outputs=outputs)
        came = result.as_numpy("OUTPUT0")
        if datatype == "BYTES":
            came = [[text.encode() if isinstance(text, str) else text for text in row] for row in came.tolist()]
            assert came == values.tolist()
        else:
            assert came.dtype == values.dtype
            assert np.array_equal(came, values)


def test_shapes_without_a_batch_axis_without_any_and_reshaped(client: Any) -> None:
    for name, shape in (("whole", (2, 3)), ("scalar", (1,))):
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        assert np.array_equal(client.infer(name, [tensor("INPUT0", values)]).as_numpy("OUTPUT0"), values)
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    result = client.infer("reshaped", [tensor("INPUT0", values)])
    assert np.array_equal(result.as_numpy("OUTPUT0"), values.reshape(2, 3, 2))


def test_classes_of_any_output(client: Any) -> None:
    values = np.array([[[1, 5], [3, 2]], [[9, 0], [0, 0]]], np.float32)
    outputs = [triton.InferRequestedOutput("OUTPUT0", class_count=2)]
    classes = client.infer("reshaped", [tensor("INPUT0", values)], outputs=outputs).as_numpy("OUTPUT0")
    assert classes.tolist() == [
        [b"5.000000:1:second", b"3.000000:2:third"],
        ["9.000000:0:first\u2028line".encode(), b"0.000000:1:second"],
    ]
    whole = np.array([[1, 5, 3], [3, 2, 7]], np.float32)
    classes = client.infer("whole", [tensor("INPUT0", whole)], outputs=outputs).as_numpy("OUTPUT0")
    assert classes.tolist() == [b"7.000000:5", b"5.000000:1"]


REFUSED = {
    "a missing input": ("simple", [tensor("INPUT0", FOUR)], "input 'INPUT1' of model 'simple' is missing"),
    "an unknown input": ("simple", [tensor("x", FOUR)], "unexpected inference input 'x' for model 'simple'"),
    "another datatype": ("simple", pair(FOUR, FOUR.astype(np.int64)), "INPUT1' is INT64 [1, 16], model 'simple' takes"),
    "another shape": ("simple", pair(FOUR[:, :8], FOUR), "INPUT0' is INT32 [1, 8], model 'simple' takes INT32 [-1"),
    "other axes": ("simple", pair(FOUR[0], FOUR), "INPUT0' is INT32 [16]"),
    "too many rows": ("simple", pair(*[np.zeros((9, 16), np.int32)] * 2), "has 9 rows, model 'simple' takes up to 8"),
    "no row": ("simple", pair(*[np.zeros((0, 16), np.int32)] * 2), "INPUT0' is INT32 [0, 16]"),
    "rows that differ": ("simple", pair(FOUR, np.zeros((2, 16), np.int32)), "the inputs have [1, 2] rows"),
    "axes that differ": (
        "agreeing",
        pair(np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32)),
        "axis 'n' is 2 in one input and 3 in 'INPUT1'",
    ),
    "a size that does not become another": (
        "whole", [tensor("INPUT0", np.zeros((3, 2), np.float32))], "INPUT0' is FP32 [3, 2]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_model_is_refused(client: Any, case: str) -> None:
    model, inputs, message = REFUSED[case]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs)
    assert caught.value.status() == "400"
    assert message in caught.value.message()


def test_unknown_outputs_and_classes_of_strings_are_refused(client: Any) -> None:
    text = np.array([[b"1"]], np.object_)
    for output, message in (("x", "unexpected inference output 'x'"), ("OUTPUT0", "is of strings, which are in no")):
        outputs = [triton.InferRequestedOutput(output, class_count=1)]
        with pytest.raises(InferenceServerException, match=message):
            client.infer("same-BYTES", [tensor("INPUT0", text)], outputs=outputs)


def test_answers_are_bounded(client: Any) -> None:
    """An input of eight bytes may make a gigabyte; no more leaves the server than may come into it."""
    one = np.ones(1, np.float32)
    for elements, binary, message in (
        (300_000, True, "outputs have 1200000 bytes, the limit is 1048576"),
        (1_100_000, False, "has 1100000 elements, the limit of JSON is 1048576"),
    ):
        outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary)]
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer("vast", pair(one, np.array([elements])), outputs=outputs)
        assert caught.value.status() == "413"
    assert client.infer("vast", pair(one, np.array([99_999]))).as_numpy("OUTPUT0").sum() == 99_999


def test_classes_are_bounded(client: Any) -> None:
    """Each is a text of up to 300 characters, of an element of four bytes that the limit of bytes counts."""
    one, many = np.ones(1, np.float32), np.array([100_000])
    with pytest.raises(InferenceServerException, match="100000 classes, the limit is 65536") as caught:
        client.infer("vast", pair(one, many), outputs=[triton.InferRequestedOutput("OUTPUT0", class_count=200_000)])
    assert caught.value.status() == "413"
    few = client.infer("vast", pair(one, many), outputs=[triton.InferRequestedOutput("OUTPUT0", class_count=2)])
    assert few.as_numpy("OUTPUT0").shape == (2,)


def test_a_body_without_json(address: str, client: Any) -> None:
    url = f"http://{address}/v2/models/"
    for model, body in (("same-BYTES", b"any text"), ("same-INT32", np.arange(5, dtype="<i4").tobytes())):
        answer = httpx.post(f"{url}{model}/infer", content=body, headers={"Inference-Header-Content-Length": "0"})
        assert answer.status_code == 200, answer.text
        assert answer.content.endswith(body)
    assert "whose shape follows" in said(
        httpx.post(f"{url}simple/infer", content=b"123", headers={"Inference-Header-Content-Length": "0"}), 400
    )


def test_one_bad_request_does_not_fail_the_others(client: Any) -> None:
    """Also where they share a run."""
    good = [client.async_infer("picky", [tensor("INPUT0", np.array([[k]]))]) for k in range(10)]
    bad = client.async_infer("picky", [tensor("INPUT0", np.array([[99]]))])
    assert [request.get_result().as_numpy("OUTPUT0").item() for request in good] == list(range(10))
    with pytest.raises(InferenceServerException) as caught:
        bad.get_result()
    assert caught.value.status() == "500"


def test_only_the_open_inference_protocol_serves_them(address: str) -> None:
    listed = httpx.get(f"http://{address}/v1/models").json()["models"]
    assert [model["name"] for model in listed] == ["shades"]
    answer = httpx.post(
        f"http://{address}/v1/classify?model=simple", content=b"x", headers={"Content-Type": "image/png"}
    )
    assert answer.status_code == 422
    assert "/v2/models/simple/infer" in answer.json()["error"]["hint"]
    assert httpx.get(f"http://{address}/v1/models/simple/samples/x.png").status_code == 404


def runs_of_five(statistics: dict[str, Any]) -> int:
    return sum(batch["compute_infer"]["count"] for batch in statistics["batch_stats"] if batch["batch_size"] == 5)


def test_statistics(client: Any) -> None:
    """The server is shared with the tests before this one, whose runs it has counted."""
    before = client.get_inference_statistics("simple")["model_stats"][0]
    client.infer("simple", pair(*[np.zeros((5, 16), np.int32)] * 2))
    [after] = client.get_inference_statistics("simple", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert runs_of_five(after) - runs_of_five(before) == 1
