"""Versions that are swapped, loaded and unloaded under requests: none of them fails."""

import asyncio
import io
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.models import control as model_control
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.oip.stats import Statistics
from serve.settings import Settings
from tests.serve.denoisers import held_denoiser, write_denoiser
from tests.serve.servers import encoded, held_repository, in_process, over_socket, until
from tests.serve.swapping import (
    EXPLICIT,
    LOAD,
    UNLOAD,
    classify,
    index,
    served,
    served_version,
    text,
    write_version,
)


def test_no_request_fails_while_versions_are_swapped(tmp_path: Path) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, repository):
            answers: list[tuple[str, str]] = []
            ending = asyncio.Event()

            async def keep_asking() -> None:
                while not ending.is_set():
                    answers.append(await classify(client))

            async with asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(keep_asking())
                for version in range(2, 7):
                    await until(lambda version=version: (str(version - 1), "90"[version % 2]) in answers)  # type: ignore[misc]
                    await asyncio.to_thread(write_version, tmp_path, version)
                    assert (await client.post(LOAD)).status_code == 200
                await until(lambda: answers[-1][0] == "6")
                ending.set()
            assert {label for version, label in answers if int(version) % 2} == {"9"}
            assert {label for version, label in answers if not int(version) % 2} == {"0"}
            assert {version for version, _ in answers} == set("123456")
            await until(lambda: len(repository.batchers) == 1)  # the others are closed and forgotten

    asyncio.run(main())


def test_an_old_version_finishes_what_it_has_begun(tmp_path: Path) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        repository, engine = held_repository(tmp_path, EXPLICIT)
        closed = asyncio.Event()
        loop = asyncio.get_running_loop()
        engine.close = lambda: loop.call_soon_threadsafe(closed.set)  # type: ignore[method-assign,assignment]
        async with in_process(repository, EXPLICIT) as client:
            engine.gate.clear()
            entered = engine.entered
            begun = asyncio.create_task(classify(client))
            await until(lambda: engine.entered > entered)
            write_version(tmp_path, 2)
            assert (await client.post(LOAD)).status_code == 200
            assert await classify(client) == ("2", "0")
            assert not closed.is_set()
            assert not begun.done()
            engine.gate.set()
            assert await begun == ("1", "9")
            async with asyncio.timeout(30):
                await closed.wait()

    asyncio.run(main())


def test_a_picture_is_finished_by_the_denoiser_that_began_it(tmp_path: Path) -> None:
    """Its files are replaced, under the same version, between two of its tiles."""
    write_denoiser(tmp_path)
    picture = encoded(Image.new("L", (200, 200), 10))
    settings = Settings(decode_threads=1, tile_threads=1, max_batch=1, model_control="explicit")

    async def denoise(client: httpx.AsyncClient) -> int:
        answer = await client.post("/v1/denoise", content=picture, headers={"Accept": "image/png"})
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as found:
            [(_, level)] = found.convert("L").getcolors()
            return int(level)

    async def main() -> None:
        repository, engine = held_denoiser(tmp_path, settings)
        async with in_process(repository, settings) as client:
            engine.close_after(2)
            begun = asyncio.create_task(denoise(client))
            await until(lambda: engine.entered == 3)
            shutil.rmtree(tmp_path / "clean")
            write_denoiser(tmp_path, kind="inverse")
            assert (await client.post("/v2/repository/models/clean/load")).status_code == 200
            assert await denoise(client) == 245
            assert len(repository.batchers) == 2
            engine.gate.set()
            assert await begun == 10
            await until(lambda: len(repository.batchers) == 1)

    asyncio.run(main())


def test_unloading_drains_and_loading_brings_back(tmp_path: Path) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        repository, engine = held_repository(tmp_path, EXPLICIT)
        async with in_process(repository, EXPLICIT) as client:
            engine.gate.clear()
            entered = engine.entered
            begun = asyncio.create_task(classify(client))
            await until(lambda: engine.entered > entered)
            assert (await client.post(UNLOAD, json={"parameters": {"unload_dependents": False}})).status_code == 200
            assert (await client.get("/v2/models/shades")).status_code == 404
            assert (await client.get("/v2/models/shades/ready")).status_code == 404
            assert await index(client) == {("shades", "1"): ("UNAVAILABLE", "not loaded")}
            again = await client.post(UNLOAD)
            assert (again.status_code, "failed to unload 'shades'" in again.text) == (404, True)
            engine.gate.set()
            assert await begun == ("1", "9")
            assert (await client.get("/readyz")).status_code == 200, "nobody is down, there is only nothing to ask"
            assert (await client.post(LOAD)).status_code == 200
            assert await classify(client) == ("1", "9")

    asyncio.run(main())


def test_versions_of_long_ago_leave_metrics_and_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_control, "REMEMBERED_VERSIONS", 1)
    statistics = Statistics()
    monkeypatch.setattr("serve.oip.infer.Statistics", lambda: statistics)
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, repository):
            for version in range(2, 5):
                assert await served_version(client) == str(version - 1)
                assert await rows_counted(client) == {str(version - 1): 1}
                write_version(tmp_path, version)
                assert (await client.post(LOAD)).status_code == 200
                await until(lambda: len(repository.batchers) == 1)
            assert await served_version(client) == "4"
            counted = re.findall(
                r'skipvit_requests_total{model="shades",outcome="ok",.*version="(.)"}', await text(client)
            )
            assert set(counted) == {"3", "4"}
            assert await rows_counted(client) == {"4": 1}
            assert sorted(statistics._models) == [("shades", "3"), ("shades", "4")]

    asyncio.run(main())


async def rows_counted(client: httpx.AsyncClient) -> dict[str, int]:
    """Sends a row, and says what is counted of each version that is served."""
    row = {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192}
    assert (await client.post("/v2/models/shades/infer", json={"inputs": [row]})).status_code == 200
    stats = (await client.get("/v2/models/shades/stats")).json()["model_stats"]
    return {each["version"]: each["inference_count"] for each in stats}


def test_why_versions_failed_is_forgotten_when_they_are_removed(tmp_path: Path) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, repository):
            for version in range(2, 5):
                bad = write_version(tmp_path, version)
                (bad / "model.onnx").write_bytes(b"no model")
                assert (await client.post(LOAD)).status_code == 400
                assert list(repository.failures) == [("shades", version)]
                shutil.rmtree(bad)

    asyncio.run(main())


def test_samples_of_a_version_whose_files_are_gone(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    folder = write_denoiser(tmp_path)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            sample = "/v1/models/clean/samples/sample-grey.png"
            assert (await client.get(sample)).status_code == 200
            shutil.rmtree(folder)
            assert (await client.get(sample)).status_code == 404

    asyncio.run(main())


@pytest.mark.parametrize(("policy", "shown"), [("all", ["10", "2", "1"]), ([1, 2, 5], ["2", "1"])])
def test_several_versions_are_served(tmp_path: Path, policy: Any, shown: list[str]) -> None:
    for version in (1, 2, 10):
        write_version(tmp_path, version)
    settings = Settings(decode_threads=2, models={"shades": {"versions": policy}})  # type: ignore[dict-item]
    picture = np.full((1, 8, 8, 3), 255)
    body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": picture.ravel().tolist()}]}

    async def main() -> None:
        async with served(tmp_path, settings) as (client, _):
            assert await served_version(client) == shown[0]
            [model] = (await client.get("/v1/models")).json()["models"]
            assert (model["version"], model["versions"]) == (shown[0], shown)
            assert (await client.get("/v2/models/shades")).json()["versions"] == shown
            assert {version for (_, version), row in (await index(client)).items() if row[0] == "READY"} == set(shown)
            for version in shown:
                answer = await client.post(f"/v2/models/shades/versions/{version}/infer", json=body)
                assert answer.json()["model_version"] == version
                assert int(np.argmax(answer.json()["outputs"][0]["data"])) == (9 if int(version) % 2 else 0)
            missing = await client.get("/v2/models/shades/versions/3")
            assert (missing.status_code, f"version {', '.join(shown)} is served" in missing.text) == (404, True)

    asyncio.run(main())


def test_tritons_client_loads_and_unloads(tmp_path: Path) -> None:
    """simple_http_model_control: load, unload, index, and an unknown name."""
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    write_version(tmp_path, 1)
    with over_socket(Repository.open(tmp_path, EXPLICIT), EXPLICIT) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        try:
            client.load_model("shades")
            assert client.is_model_ready("shades")
            client.unload_model("shades")
            with pytest.raises(InferenceServerException, match="unknown model"):
                client.is_model_ready("shades") or client.get_model_metadata("shades")
            with pytest.raises(InferenceServerException, match="failed to load"):
                client.load_model("wrong_model_name")
            client.load_model("shades")
            assert [row["state"] for row in client.get_model_repository_index()] == ["READY"]
        finally:
            client.close()


def test_loads_of_a_server_that_is_ending_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is being read is waited for; whatever was opened is closed."""
    write_version(tmp_path, 1)
    load, opened, closed = model_control.load_version, [], []
    reading, may_read = threading.Event(), threading.Event()

    def held_load(*arguments: Any) -> ServedModel:
        reading.set()
        assert may_read.wait(30)
        model = load(*arguments)
        monkeypatch.setattr(model.engine, "close", lambda: closed.append(model))
        opened.append(model)
        return model

    end = model_control.ModelControl.close

    async def read_while_it_ends(control: model_control.ModelControl) -> None:
        ending = asyncio.create_task(end(control))
        await until(lambda: control._work.closing)
        may_read.set()
        await ending

    monkeypatch.setattr(model_control, "load_version", held_load)
    monkeypatch.setattr(model_control.ModelControl, "close", read_while_it_ends)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            loading = [asyncio.create_task(client.post(LOAD)) for _ in range(3)]
            await until(reading.is_set)
        assert sorted([(await task).status_code for task in loading]) in ([200, 400, 400], [400, 400, 400])
        assert opened
        assert closed == opened

    asyncio.run(main())
