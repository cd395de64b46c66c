"""Models that are not ours, by their configuration: what is loaded, replaced, refused, and run together."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from serve.models.repository import Repository
from serve.settings import Settings
from skipvit.artifacts import ArtifactError
from tests.serve.foreign_asking import FOUR, pair
from tests.serve.foreign_models import SIMPLE_CONFIG, add_sub, write_foreign
from tests.serve.servers import in_process, over_socket, until, write_model


def test_requests_share_runs_where_the_configuration_allows_it(tmp_path: Path) -> None:
    """While one run is held, what waits is collected, and the next takes all of it."""
    write_foreign(tmp_path, "simple", add_sub(), SIMPLE_CONFIG + "instance_group { count: 1 }")
    settings = Settings(decode_threads=1)
    repository = Repository.open(tmp_path, settings)
    model: Any = repository.models["simple"]
    sizes: list[int] = []
    entered, gate = threading.Event(), threading.Event()
    run_all = model.engine.run_all

    def held(requests: Any) -> Any:
        sizes.append(len(requests))
        entered.set()
        assert gate.wait(30)
        return run_all(requests)

    async def scenario(client: httpx.AsyncClient) -> None:
        model.engine.run_all = held
        body, headers = asked_pair()
        tasks = [asyncio.create_task(client.post("/v2/models/simple/infer", content=body, headers=headers))]
        await until(entered.is_set)
        tasks += [
            asyncio.create_task(client.post("/v2/models/simple/infer", content=body, headers=headers)) for _ in range(5)
        ]
        await until(lambda: model.batcher.waiting == 5)
        gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 6

    async def main() -> None:
        async with in_process(repository, settings) as client:
            await scenario(client)

    asyncio.run(main())
    assert sizes == [1, 5]


def asked_pair() -> tuple[bytes, dict[str, str]]:
    body, size = triton.InferenceServerClient.generate_request_body(pair(FOUR, FOUR))
    return body, {"Inference-Header-Content-Length": str(size)}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("max_batch_size: 8 input [", "config.pbtxt: line 1"),
        ('backend: "python"', "config.pbtxt: it needs 'python'"),
        ('default_model_filename: "other.onnx"', "other.onnx is not there"),
        (SIMPLE_CONFIG.replace("INT32", "FP32"), "does not fit its config.pbtxt: input 'INPUT0' is FP32"),
        (SIMPLE_CONFIG.replace('name: "OUTPUT1"', 'label_filename: "no.txt" name: "OUTPUT1"'), "no.txt is not there"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(tmp_path: Path, config: str, message: str) -> None:
    write_foreign(tmp_path, "simple", add_sub(), config)
    with pytest.raises(ArtifactError, match=message.replace("(", r"\(")):
        Repository.open(tmp_path, Settings())


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x09" * 50])
def test_a_damaged_graph_is_refused_at_the_start(tmp_path: Path, content: bytes) -> None:
    (write_foreign(tmp_path, "simple", add_sub()) / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded by ONNX Runtime"):
        Repository.open(tmp_path, Settings())


def test_simple_http_model_control(tmp_path: Path) -> None:
    """A configuration that comes with the order to load takes the place of the file, until the next load."""
    write_foreign(tmp_path, "simple", add_sub(), SIMPLE_CONFIG)
    write_model(tmp_path)
    settings = Settings(decode_threads=1, access_log=False, model_control="explicit")
    with over_socket(Repository.open(tmp_path, settings), settings) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        assert len(client.get_model_repository_index()) == 2
        client.load_model("simple")
        for wrong in ('"parameters": {', '{"max_batch_size": "many"}', "[]", '{"input": [3]}', '{"backend": "python"}'):
            with pytest.raises(InferenceServerException, match="failed to load"):
                client.load_model("simple", config=wrong)
            assert client.get_model_config("simple")["max_batch_size"] == 8
        client.load_model("simple", config='{"max_batch_size": "16", "instance_group": [{"kind": "KIND_CPU"}]}')
        assert client.get_model_config("simple")["max_batch_size"] == 16
        sixteen = np.ones((16, 16), np.int32)
        assert client.infer("simple", pair(sixteen, sixteen)).as_numpy("OUTPUT0").tolist() == [[2] * 16] * 16
        client.load_model("simple")
        assert client.get_model_config("simple")["max_batch_size"] == 8
        with pytest.raises(InferenceServerException, match="failed to load 'shades', 'shades' has a manifest"):
            client.load_model("shades", config="{}")
        client.unload_model("simple")
        assert not client.is_model_ready("simple")
        with pytest.raises(InferenceServerException, match="failed to load"):
            client.load_model("wrong_model_name")
        client.close()
