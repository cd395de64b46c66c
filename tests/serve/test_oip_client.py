"""Triton's own HTTP clients, unmodified, against a real server: what its example programs ask."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from serve.models.repository import Repository
from serve.settings import Settings
from skipvit.artifacts import LABELS, TRITON_CONFIG
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import over_socket, png, write_model

CODINGS = (None, "gzip", "deflate")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a server of a classifier with labels and two denoisers."""
    root = tmp_path_factory.mktemp("oip-models")
    write_model(root, labels=[f"grey {k}" for k in range(10)])
    write_denoiser(root, "inverse", "inverse")
    write_denoiser(root)
    settings = Settings(decode_threads=2, tile_threads=2, access_log=False, engine="onnx-cpu")
    with over_socket(Repository.open(root, settings), settings) as url:
        yield url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    client = triton.InferenceServerClient(address, concurrency=4)
    yield client
    client.close()


def shades(*values: int) -> Any:
    return np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])


def given(array: Any, name: str = "image", *, binary: bool = True) -> Any:
    datatype = "BYTES" if array.dtype == object else "UINT8"
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def test_health_and_metadata(client: Any) -> None:
    """simple_http_health_metadata"""
    assert client.is_server_live(query_params={"test_1": 1, "test_2": 2})
    assert client.is_server_ready()
    assert client.is_model_ready("shades")
    assert client.is_model_ready("shades", "1")
    assert not client.is_model_ready("shades", "2")
    assert client.get_server_metadata()["name"] == "triton"
    for version in ("", "1"):
        metadata = client.get_model_metadata("shades", version, query_params={"test_1": 1})
        assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("shades", ["1"], "onnxruntime_onnx")
        assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
        assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    with pytest.raises(InferenceServerException, match="Request for unknown model") as caught:
        client.get_model_metadata("wrong_model_name")
    assert caught.value.status() == "404"


def test_config_is_tritons(client: Any) -> None:
    """Its protobuf schema takes every model's, and refuses what it does not know."""
    for name in ("shades", "inverse", "clean"):
        config = client.get_model_config(name)
        parsed = json_format.Parse(json.dumps(config), model_config_pb2.ModelConfig())
        assert (parsed.name, parsed.max_batch_size) == (name, 16)
        assert parsed.input[0].format == model_config_pb2.ModelInput.FORMAT_NHWC
        assert parsed.input[0].dims == client.get_model_metadata(name)["inputs"][0]["shape"][1:]
    assert client.get_model_config("shades")["output"][0]["label_filename"] == LABELS
    assert TRITON_CONFIG not in config["default_model_filename"]


def test_the_repository(client: Any) -> None:
    """simple_http_model_control: the index; loading and unloading are not enabled."""
    listed = client.get_model_repository_index()
    assert [(m["name"], m["version"], m["state"]) for m in listed] == [
        (name, "1", "READY") for name in ("clean", "inverse", "shades")
    ]
    for control in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="not enabled") as caught:
            control("shades")
        assert caught.value.status() == "400"
    assert client.is_model_ready("shades")


@pytest.mark.parametrize("coding", CODINGS)
def test_infer(client: Any, coding: str | None) -> None:
    """simple_http_infer_client: with requested outputs and without, JSON and binary, compressed and not."""
    options = {
        "query_params": {"test_1": 1, "test_2": 2},
        "request_compression_algorithm": coding,
        "response_compression_algorithm": coding,
    }
    rows = shades(0, 128, 255)
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput("probabilities", binary_data=not binary)]
        for outputs in (wanted, None):
            result = client.infer(
                "shades", [given(rows, binary=binary)], outputs=outputs, request_id="my id", headers={}, **options
            )
            assert result.as_numpy("probabilities").argmax(1).tolist() == [0, 5, 9]
            assert result.as_numpy("nothing") is None
            assert result.get_response()["id"] == "my id"
            assert ("data" in result.get_output("probabilities")) == (outputs is not None and binary)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("wrong_model_name", [given(rows)])
    assert caught.value.message().startswith("Request for unknown model")


def test_statistics(client: Any) -> None:
    before = client.get_inference_statistics("shades")["model_stats"][0]
    client.infer("shades", [given(shades(1, 2, 3))])
    with pytest.raises(InferenceServerException):
        client.infer("shades", [given(shades(1), "wrong")])
    [after] = client.get_inference_statistics("shades", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 3
    for stage, count in (("success", 1), ("fail", 1), ("queue", 1), ("compute_infer", 1)):
        assert after["inference_stats"][stage]["count"] - before["inference_stats"][stage]["count"] == count
        assert after["inference_stats"][stage]["ns"] > before["inference_stats"][stage]["ns"]
    sizes = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    assert sum(sizes.values()) == after["execution_count"]
    assert sum(size * count for size, count in sizes.items()) == after["inference_count"]
    assert len(client.get_inference_statistics()["model_stats"]) == 3


def test_strings(client: Any) -> None:
    """simple_http_string_infer_client: BYTES in, here pictures as files, and BYTES out, here classes."""
    pictures = np.array([[png(0)], [png(255, (31, 20), "L")]], dtype=np.object_)
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
        classes = client.infer("shades", [given(pictures)], outputs=outputs).as_numpy("probabilities")
        assert classes.shape == (2, 2)
        texts = [c.decode() if isinstance(c, bytes) else str(c) for c in classes[:, 0]]
        assert [text.split(":")[1:] for text in texts] == [["0", "grey 0"], ["9", "grey 9"]]
    with pytest.raises(InferenceServerException, match="'row 1' is not an image") as caught:
        client.infer("shades", [given(np.array([png(0), b"text"], dtype=np.object_))])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="'row 0' is not an image"):
        client.infer("shades", [given(np.array([b"text"], dtype=np.object_), binary=False)])


def test_image_client(client: Any) -> None:
    """image_client: what it needs of metadata and config, and its batches of pictures with class strings back."""
    metadata, config = client.get_model_metadata("shades"), client.get_model_config("shades")
    [one], [out] = metadata["inputs"], metadata["outputs"]
    assert (out["datatype"], config["input"][0]["format"], config["max_batch_size"] > 0) == (
        "FP32",
        "FORMAT_NHWC",
        True,
    )
    assert len(one["shape"]) == 4
    outputs = [triton.InferRequestedOutput(out["name"], class_count=3)]
    requests = [client.async_infer("shades", [given(shades(v, 255 - v))], outputs=outputs) for v in (0, 100)]
    for request, best in zip(requests, ((0, 9), (4, 5)), strict=True):
        classes = request.get_result().as_numpy(out["name"])
        assert classes.shape == (2, 3)
        for row, index in zip(classes, best, strict=True):
            value, found, label = "".join(chr(byte) for byte in row[0]).split(":")
            assert (int(found), label) == (index, f"grey {index}")
            assert 0 < float(value) <= 1


def test_pictures_in_and_out(client: Any) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 100, 150, 3), dtype=np.uint8)
    for coding in CODINGS:
        result = client.infer("inverse", [given(pictures, "images")], response_compression_algorithm=coding)
        assert np.array_equal(result.as_numpy("denoised"), 255 - pictures)


def test_the_asyncio_client(address: str) -> None:
    """simple_http_aio_infer_client, with many requests at a time."""

    async def main() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("shades")
            assert (await client.get_model_metadata("inverse"))["name"] == "inverse"
            assert (await client.get_model_config("inverse"))["name"] == "inverse"
            assert len(await client.get_model_repository_index()) == 3
            assert len((await client.get_inference_statistics("shades"))["model_stats"]) == 1
            for coding in CODINGS:
                options = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
                asked = [
                    client.infer("shades", [given(shades(v))], request_id=str(v), **options) for v in range(0, 256, 17)
                ]
                for k, result in enumerate(await asyncio.gather(*asked)):
                    assert result.get_response()["id"] == str(17 * k)
                    assert abs(int(result.as_numpy("probabilities").argmax()) - 17 * k * 9 / 255) <= 0.5
                pictures = np.random.default_rng(0).integers(0, 99, (1, 70, 80, 3), dtype=np.uint8)
                result = await client.infer("inverse", [given(pictures, "images")], **options)
                assert np.array_equal(result.as_numpy("denoised"), 255 - pictures)
            with pytest.raises(InferenceServerException, match="Request for unknown model"):
                await client.infer("wrong", [given(shades(1))])

    asyncio.run(main())
