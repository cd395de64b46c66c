"""Engines that die: their model answers 503 until it is started again, the others go on."""

import asyncio
import threading
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import httpx
import pytest

from serve.engines.engine import EngineLost, EngineUnavailable, Rows
from serve.models import control as model_control
from serve.models import revival
from serve.models.repository import Repository
from serve.models.revival import pause_s
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from skipvit.transforms import Pixels
from tests.serve.servers import held_repository, in_process, png, until, write_model

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
# A model runs in the decode threads, or in threads of its own.
BOTH_WAYS = pytest.mark.parametrize("engine_threads", [0, 2], ids=["lent hands", "own threads"])
PNG = {"Content-Type": "image/png"}


def die(_batch: Pixels) -> Rows:
    raise SystemExit("out of memory, say")


async def classify(client: httpx.AsyncClient, model: str = "shades") -> httpx.Response:
    return await client.post(f"/v1/classify?model={model}", content=png(), headers=PNG)


@BOTH_WAYS
def test_an_engine_that_died_is_started_again(
    models_dir: Path, engine_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(decode_threads=2, engine_threads=engine_threads)
    may_load = threading.Event()
    load = model_control.load_version

    def wait_and_load(*arguments: Any) -> Any:
        assert may_load.wait(30)
        return load(*arguments)

    monkeypatch.setattr(model_control, "load_version", wait_and_load)

    async def main() -> None:
        repository, engine = held_repository(models_dir, settings)
        async with in_process(repository, settings) as client:
            engine.run = die  # type: ignore[method-assign]
            dead = repository.models["shades"]
            refused = await classify(client)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert "out of service" in refused.json()["error"]["message"]
            assert (await client.get("/readyz")).json() == {"status": "recovering"}
            assert (await client.get("/livez")).status_code == 200, "there is no need for a new process yet"
            assert 'skipvit_model_ready{model="shades",version="1"} 0.0' in (await client.get("/metrics")).text
            assert (await client.get("/v1/models")).json()["models"][0]["ready"] is False
            assert (await classify(client)).status_code == 503
            may_load.set()
            await until(lambda: repository.models["shades"] is not dead)
            assert (await classify(client)).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            await until(lambda: len(repository.batchers) == 1)  # the dead one is forgotten

    asyncio.run(main())


def test_others_answer_while_one_cannot_be_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "good")
    write_model(tmp_path, "shades")
    settings = Settings(decode_threads=2)
    tried = 0

    def fail(*_arguments: Any) -> Any:
        nonlocal tried
        tried += 1
        raise EngineLost("the GPU is gone") if tried % 2 else EngineUnavailable("the GPU is gone")

    load = model_control.load_version
    monkeypatch.setattr(model_control, "load_version", fail)
    monkeypatch.setattr(revival, "_LOOK_FOR_DEAD_S", 0.01)
    monkeypatch.setattr(revival, "pause_s", lambda troubles: 0.0)
    repository = Repository.open(tmp_path, settings)

    async def main() -> None:
        async with in_process(repository, settings) as client:
            repository.models["shades"].engine.run = die  # type: ignore[method-assign]
            assert (await classify(client)).status_code == 503
            assert repository.state == "ready", "the other one answers"
            await until(lambda: repository.state == "failed")
            assert tried >= revival.GIVE_UP_AFTER
            assert (await client.get("/livez")).status_code == 503
            assert (await client.get("/readyz")).status_code == 503
            assert (await classify(client, "good")).status_code == 200
            assert "the GPU is gone" in (await client.get("/v1/models")).json()["failed"][0]["reason"]
            monkeypatch.setattr(model_control, "load_version", load)
            await until(lambda: repository.state == "ready")
            assert (await classify(client)).status_code == 200

    asyncio.run(main())


def test_what_died_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_control, "REMEMBERED_VERSIONS", 1)
    control = model_control.ModelControl(Settings(), cast(Any, Mock(versions=lambda _name: {"4": Mock()})), Metrics())
    for version in range(1, 6):
        control._revival._health["shades", version] = revival._Health(troubles=1)
        closed = Mock(version=str(version))
        closed.name = "shades"
        control._remember(closed)
    assert sorted(control._revival._health) == [("shades", 4), ("shades", 5)]  # one is served, and one was a moment ago
    control._work._thread.shutdown()


def test_pauses_grow_to_half_a_minute() -> None:
    assert [pause_s(troubles) for troubles in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pause_s(5000) == 30
