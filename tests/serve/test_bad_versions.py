"""Versions and load calls that something is wrong with: they are refused, and take nothing's place."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve import tasks
from serve.engines.engine import OnnxCpuEngine
from serve.models import control as model_control
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import LABELS, MANIFEST
from tests.serve.servers import (
    brightness_model,
)
from tests.serve.swapping import (
    EXPLICIT,
    LOAD,
    classify,
    index,
    served,
    write_version,
)
from tests.serve.video_denoisers import write_video_denoiser


def test_of_several_versions_the_good_ones_are_taken(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    settings = Settings(decode_threads=2, model_control="explicit", models={"shades": {"versions": "all"}})  # type: ignore[dict-item]

    async def main() -> None:
        async with served(tmp_path, settings) as (client, repository):
            (write_version(tmp_path, 2) / "model.onnx").write_bytes(b"x")
            write_version(tmp_path, 3)
            refused = await client.post(LOAD)
            assert (refused.status_code, "2/model.onnx has sha256" in refused.text) == (400, True)
            assert list(repository.versions("shades")) == ["3", "1"]

    asyncio.run(main())


def test_loads_beyond_measure_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path, 1)
    monkeypatch.setattr(model_control, "MOST_WAITING", 0)

    async def main() -> None:
        async with served(tmp_path, EXPLICIT) as (client, _):
            refused = await client.post(LOAD)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")

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
