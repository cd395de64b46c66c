"""Loads that hang in a thread: the old version answers, other models come and go, and the log and clients are told."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.errors import NotReady
from serve.models import background, control
from serve.models.background import Background
from serve.models.one_at_a_time import MOST_ASIDE, OneAtATime
from serve.models.served_model import ServedModel
from serve.settings import Settings
from tests.serve.servers import until, write_model
from tests.serve.swapping import EXPLICIT, LOAD, UNLOAD, served, served_version, write_version

OTHER = "/v2/repository/models/{}/{}"


class Stuck:
    """Warm-ups of version 2 of the tiny model wait here, or fail."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def load(self, root: Path, name: str, version: int, *arguments: Any, **named: Any) -> ServedModel:
        model = self.really(root, name, version, *arguments, **named)
        if (name, version) == ("shades", 2):
            warm_up = model.warm_up
            model.warm_up = lambda: self._warm_up(warm_up)  # type: ignore[method-assign]
        return model

    really = staticmethod(control.load_version)

    def _warm_up(self, warm_up: Any) -> None:
        self.begun.set()
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        warm_up()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    stuck = Stuck()
    monkeypatch.setattr(control, "load_version", stuck.load)
    monkeypatch.setattr(background, "PATIENCE_S", 0.05)
    yield stuck
    stuck.gate.set()


@pytest.mark.parametrize("error", [None, MemoryError("none left")], ids=["ends well", "fails"])
def test_others_do_not_wait_for_a_load_that_hangs(
    tmp_path: Path, stuck: Stuck, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    write_version(tmp_path, 1)
    write_model(tmp_path, "other")
    stuck.error = error

    async def main() -> None:
        async with asyncio.timeout(60), served(tmp_path, EXPLICIT) as (client, repository):
            write_version(tmp_path, 2)
            hung = asyncio.create_task(client.post(LOAD))
            await until(stuck.begun.is_set)
            again = await client.post(LOAD)  # which waits for its turn until the first is said to hang
            assert again.status_code == 503
            assert "a load of model 'shades' is under way for" in again.text
            assert (await client.post(UNLOAD)).status_code == 503
            assert "a load of model 'shades' takes more than" in caplog.text
            for _ in range(2):
                assert (await client.post(OTHER.format("other", "load"))).status_code == 200
            dead = repository.models["other"]
            dead.batcher._die(RuntimeError("killed by the test"))
            await until(lambda: repository.models["other"].batcher.alive)
            assert (await client.post(OTHER.format("other", "unload"))).status_code == 200
            assert await served_version(client) == "1"
            assert not hung.done()
            stuck.gate.set()
            assert (await hung).status_code == (200 if error is None else 400)
            assert await served_version(client) == ("2" if error is None else "1")
            assert (await client.post(UNLOAD)).status_code == 200

    asyncio.run(main())


def test_a_look_that_a_load_held_up_is_not_acted_on_any_more(tmp_path: Path, stuck: Stuck) -> None:
    """What clients have loaded since then is not in it, as if it had been removed."""
    write_version(tmp_path, 1)

    async def main() -> None:
        settings = Settings(decode_threads=2, model_control="explicit", watch_s=0.01)
        async with asyncio.timeout(60), served(tmp_path, settings) as (client, repository):
            write_version(tmp_path, 2)  # which is found by itself
            await until(stuck.begun.is_set)
            write_model(tmp_path, "other")
            assert (await client.post(OTHER.format("other", "load"))).status_code == 200
            stuck.gate.set()
            while "2" not in repository.versions("shades"):
                await asyncio.sleep(0)
            assert "other" in repository.models

    asyncio.run(main())


def test_loads_that_hang_and_what_runs_beside_them_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may only be slow, and take its memory yet."""
    monkeypatch.setattr(background, "PATIENCE_S", 0.0)
    gate = threading.Event()

    async def main() -> None:
        work = Background("work", NotReady)
        one = OneAtATime(work)

        async def load(name: str) -> None:
            async with one.turn(name, loads=True):
                await one.in_thread(name, gate.wait, 60)

        slow = [work.spawn(load(str(number))) for number in range(MOST_ASIDE)]
        await until(lambda: one.full)
        with pytest.raises(NotReady, match="loads of '0', '1' are under way"):
            await load("more")
        async with one.turn("to be unloaded"), asyncio.timeout(60):
            pass
        gate.set()
        await asyncio.gather(*slow)
        await load("more")
        await work.close()

    asyncio.run(main())


def test_a_thread_that_hangs_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, late = threading.Event(), []

    async def main() -> None:
        work = Background("work")
        monkeypatch.setattr(background, "PATIENCE_S", 0.0)
        slow = work.spawn(work.in_thread(gate.wait, 60, late=lambda: late.append("slow")))
        await until(lambda: late == ["slow"])
        assert await work.in_thread(lambda: "done") == "done"
        assert not slow.done()
        gate.set()
        assert await slow
        await work.close()
        with pytest.raises(asyncio.CancelledError):
            await work.in_thread(gate.wait)

    asyncio.run(main())
    assert late == ["slow"]
