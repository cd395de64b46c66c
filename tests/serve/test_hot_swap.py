"""Versions that come and go under requests: no request fails, no bad version takes a good one's place."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve import model_control, tasks
from serve.engine import OnnxCpuEngine
from serve.repository import Repository
from serve.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import LABELS, MANIFEST
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import (
    brightness_model,
    held_repository,
    in_process,
    over_socket,
    png,
    until,
    write_model,
)
from tests.serve.video_denoisers import write_video_denoiser

PNG = {"Content-Type": "image/png"}
EXPLICIT = Settings(decode_threads=2, model_control="explicit")
WATCHING = Settings(decode_threads=2, watch_s=0.01)
LOAD, UNLOAD = "/v2/repository/models/shades/load", "/v2/repository/models/shades/unload"


def write_version(root: Path, version: int, **changes: Any) -> Path:
    """Even versions number their classes from the brightest: an answer tells of which kind it is."""
    graph = changes.pop("graph", None) or brightness_model(darkest_first=version % 2 == 1)
    return write_model(root, version=version, graph=graph, **changes)


async def classify(client: httpx.AsyncClient) -> tuple[str, str]:
    """Version and label of the answer to a white picture; any but an answer fails the test."""
    response = await client.post("/v1/classify?model=shades", content=png(255), headers=PNG)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["model"]["version"], answer["results"][0]["predictions"][0]["label"]


async def text(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


async def served_version(client: httpx.AsyncClient) -> str:
    return (await classify(client))[0]


async def index(client: httpx.AsyncClient) -> dict[tuple[str, str], tuple[str, str]]:
    rows = (await client.post("/v2/repository/index")).json()
    return {(row["name"], row["version"]): (row["state"], row["reason"]) for row in rows}


@asynccontextmanager
async def served(root: Path, settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Repository]]:
    repository = Repository.open(root, settings)
    async with in_process(repository, settings) as client:
        yield client, repository


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
            assert (await client.post("/v1/classify?model=shades", content=png(), headers=PNG)).status_code == 404
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


def test_what_cannot_be_loaded_is_said_in_tritons_words(tmp_path: Path) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            unknown = await client.post("/v2/repository/models/nobody/load")
            assert (unknown.status_code, unknown.json()["error"][:24]) == (400, "failed to load 'nobody',")
            config = await client.post(LOAD, json={"parameters": {"config": "{}"}})
            assert (config.status_code, "config" in config.text) == (400, True)
            for body in (b"{", b"[]", b'{"parameters": 3}'):
                assert (await client.post(LOAD, content=body)).status_code == 400
            assert (await client.post(LOAD, content=b" " * 5000)).status_code == 413
        async with served(tmp_path, Settings(decode_threads=1)) as (client, _):
            refused = await client.post(LOAD)
            assert (refused.status_code, "not enabled" in refused.text) == (400, True)

    asyncio.run(main())


def _labels(folder: Path, text: str) -> None:
    (folder.parent / LABELS).write_text(text)


def _cut_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def _another_version(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 7}))


BAD: dict[str, tuple[dict[str, Any], Callable[[Path], Any], str]] = {
    "a file cut short": ({}, lambda folder: (folder / "model.onnx").write_bytes(b"x"), "has sha256"),
    "no manifest": ({}, lambda folder: (folder / MANIFEST).unlink(), "manifest.json is not there"),
    "a manifest cut short": ({}, _cut_manifest, "is not JSON"),
    "another's manifest": ({}, _another_version, "is for 'shades' version 7"),
    "labels changed": ({}, lambda folder: _labels(folder, "a\n" * 10), "labels.txt has sha256"),
    "labels short": ({"labels": ["a", "b"]}, lambda folder: None, "2 labels"),
    "not finite": ({"graph": brightness_model(scale=float("nan"))}, lambda folder: None, "not finite"),
    "another size": ({"graph": brightness_model(side=16)}, lambda folder: None, "its manifest says"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_version_takes_nothings_place(tmp_path: Path, kind: str) -> None:
    changes, break_it, reason = BAD[kind]
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, repository):
            good = repository.models["shades"]
            break_it(write_version(tmp_path, 2, **changes))
            refused = await client.post(LOAD)
            assert refused.status_code == 400
            assert refused.json()["error"].startswith("failed to load 'shades', ")
            assert reason in refused.text
            assert str(tmp_path) not in refused.text, "where things lie is nobody's business"
            assert repository.models["shades"] is good
            assert await classify(client) == ("1", "9")
            assert (await index(client))["shades", "1"] == ("READY", "")
            state, why = (await index(client))["shades", "2"]
            assert (state, reason in why) == ("UNAVAILABLE", True)
            [failed] = (await client.get("/v1/models")).json()["failed"]
            assert (failed["name"], failed["version"], reason in failed["reason"]) == ("shades", "2", True)
            counted = 'skipvit_model_loads_total{model="shades",outcome="failed"} 1.0'
            assert counted in (await client.get("/metrics")).text
            shutil.rmtree(tmp_path / "shades")
            write_version(tmp_path, 2)
            assert (await client.post(LOAD)).status_code == 200
            assert await classify(client) == ("2", "0")
            assert (await client.get("/v1/models")).json()["failed"] == []

    asyncio.run(main())


def test_a_model_whose_package_is_missing_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            write_video_denoiser(tmp_path, "steady", "identity")
            monkeypatch.setattr(tasks, "find_spec", lambda _name: None)
            refused = await client.post("/v2/repository/models/steady/load")
            assert (refused.status_code, "needs PyAV" in refused.text) == (400, True)
            assert await classify(client) == ("1", "9")

    asyncio.run(main())


def test_versions_of_long_ago_leave_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_control, "_REMEMBERED_VERSIONS", 1)
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, repository):
            for version in range(2, 5):
                assert await served_version(client) == str(version - 1)
                write_version(tmp_path, version)
                assert (await client.post(LOAD)).status_code == 200
                await until(lambda: len(repository.batchers) == 1)
            assert await served_version(client) == "4"
            counted = re.findall(
                r'skipvit_requests_total{model="shades",outcome="ok",.*version="(.)"}', await text(client)
            )
            assert sorted(counted) == ["3", "4"]

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


def test_a_version_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path, 1)
    opened = OnnxCpuEngine.from_entry

    def change_and_open(entry: Any) -> OnnxCpuEngine:
        (entry.folder / "model.onnx").touch()
        return opened(entry)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            write_version(tmp_path, 2)
            monkeypatch.setattr(OnnxCpuEngine, "from_entry", change_and_open)
            refused = await client.post(LOAD)
            assert (refused.status_code, "changed while it was being read" in refused.text) == (400, True)
            assert await classify(client) == ("1", "9")

    asyncio.run(main())


def test_an_engine_that_dies_at_warm_up_ends_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path, 1)
    warm_up = ServedModel.warm_up

    def die(model: ServedModel) -> None:
        if model.version == "2":
            raise SystemExit("no memory left")
        warm_up(model)

    monkeypatch.setattr(ServedModel, "warm_up", die)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            write_version(tmp_path, 2)
            refused = await client.post(LOAD)
            assert (refused.status_code, "no memory left" in refused.text) == (400, True)
            assert await classify(client) == ("1", "9")

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


def test_the_folder_is_watched(tmp_path: Path) -> None:
    """A new version, the same one replaced, a bad one, an unfinished one, a new model, and all of them removed."""
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, WATCHING) as (client, repository):
            write_version(tmp_path, 2)
            await until(lambda: repository.models["shades"].version == "2")
            assert await classify(client) == ("2", "0")
            second = repository.models["shades"]
            (tmp_path / "shades" / "2" / MANIFEST).touch()
            await until(lambda: repository.models["shades"] is not second)
            (write_version(tmp_path, 3) / "model.onnx").write_bytes(b"x")
            await until(lambda: ("shades", 3) in repository.failures)
            (tmp_path / "shades" / "4").mkdir()
            assert await classify(client) == ("2", "0")
            write_model(tmp_path, "another")
            await until(lambda: "another" in repository.models)
            shutil.rmtree(tmp_path / "shades")
            await until(lambda: "shades" not in repository.models)
            await until(lambda: not repository.failures)
            shutil.rmtree(tmp_path / "another")
            write_version(tmp_path, 5)
            await until(lambda: list(repository.models) == ["shades"])
            assert await classify(client) == ("5", "9")

    asyncio.run(main())


def test_the_servers_last_model_stays_when_its_files_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_version(tmp_path, 1)

    async def main() -> None:
        async with served(tmp_path, WATCHING) as (client, _):
            shutil.rmtree(tmp_path / "shades" / "1")
            (tmp_path / "other" / "1").mkdir(parents=True)  # the folder is not empty: it was not unmounted
            await until(lambda: "it is the server's last and stays" in caplog.text)
            shutil.rmtree(tmp_path)
            await until(lambda: "cannot be looked into, all models stay" in caplog.text)
            assert await classify(client) == ("1", "9")

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

    monkeypatch.setattr(model_control, "load_version", held_load)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            loading = [asyncio.create_task(client.post(LOAD)) for _ in range(3)]
            await until(reading.is_set)
            asyncio.get_running_loop().call_later(0.05, may_read.set)
        assert sorted([(await task).status_code for task in loading]) in ([200, 400, 400], [400, 400, 400])
        assert opened
        assert closed == opened

    asyncio.run(main())
