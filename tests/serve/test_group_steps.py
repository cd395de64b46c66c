"""Which variant of a group answers while its ladder moves, and while variants are gone; by a clock that tests set."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.engines.engine import OnnxCpuEngine
from serve.errors import Overloaded
from serve.models import group as group_module
from serve.models.groups import Chosen, Groups
from serve.models.ladder import Ladder
from serve.models.repository import Repository
from serve.models.served_model import ServedModel, open_model
from serve.models.settings import GroupSettings
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from skipvit.artifacts import read_entry
from tests.serve.grouped import CLASSIFY, OIP_REQUEST, WHITE, grouped
from tests.serve.servers import CLASSES, HeldEngine, in_process, until

PAIR = {"pair": GroupSettings(variants=["best", "good"], p99_ms=60_000, hold_s=600)}
LATE_S = 61.0


class Held:
    """A server whose model "best" waits for a gate, and whose ladders go by a clock that passes as the test says."""

    def __init__(self, engine: HeldEngine, best: ServedModel) -> None:
        self.now = 0.0
        self.client: httpx.AsyncClient
        self.engine = engine
        self._batcher = best.batcher

    async def ask(self, model: str, **more: str) -> httpx.Response:
        return await self.client.post(CLASSIFY, params={"model": model, **more}, content=WHITE)

    def asked(self, model: str, **more: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.ask(model, **more))

    async def until_held(self, requests: int) -> None:
        await until(lambda: self.engine.entered + self._batcher.waiting == requests)

    async def group(self) -> dict[str, Any]:
        [group] = (await self.client.get("/v1/models")).json()["groups"]
        assert isinstance(group, dict)
        return group


@asynccontextmanager
async def held_best(
    variants: Path, groups: dict[str, GroupSettings], others: Sequence[str], **more: int
) -> AsyncIterator[Held]:
    """A server of "best", which is held when it is warm, and of others, which are not."""
    own = Settings(decode_threads=2, engine_threads=1, tile_threads=1, groups=groups, **more)
    entry = read_entry(variants, "best")
    engine = HeldEngine(OnnxCpuEngine.from_entry(entry))
    best = ServedModel(entry, engine, own, CLASSES)
    repository = Repository([best, *(open_model(read_entry(variants, name), own) for name in others)])
    held = Held(engine, best)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_module, "Ladder", partial(Ladder, clock=lambda: held.now))
        async with in_process(repository, own) as held.client:
            engine.gate.clear()
            engine.entered = 0
            try:
                yield held
            finally:
                engine.gate.set()


def test_requests_go_to_the_faster_variant_while_the_exact_one_is_slow(variants: Path) -> None:
    async def main() -> None:
        async with held_best(variants, PAIR, ["good"]) as held:
            slow = [held.asked("pair") for _ in range(2)]
            await held.until_held(2)
            held.now += LATE_S
            answer = await held.ask("pair")
            assert (answer.status_code, answer.headers["x-skipvit-model"]) == (200, "good/1")
            assert (await held.group())["variant"] == "good"
            pinned = held.asked("pair", variant="exact")
            await held.until_held(3)
            held.engine.gate.set()
            answers = await asyncio.gather(*slow, pinned)
            came_from = [answer.headers["x-skipvit-model"] for answer in answers]
            assert came_from == ["best/1"] * 3, "who was there before stays where it is"
            assert (await held.group())["variant"] == "good"
            held.now += 2 * PAIR["pair"].hold_s
            async with asyncio.timeout(60):
                while (await held.group())["step"]:  # comes back without a request
                    await asyncio.sleep(0.02)
            counted = (await held.client.get("/metrics")).text
            assert 'skipvit_group_transitions_total{direction="down",group="pair"} 1.0' in counted
            assert 'skipvit_group_transitions_total{direction="up",group="pair"} 1.0' in counted
            assert 'skipvit_group_requests_total{group="pair",variant="good"} 1.0' in counted

    asyncio.run(main())


def test_places_that_fill_up_step_down_before_anyone_is_turned_away(variants: Path) -> None:
    async def main() -> None:
        async with held_best(variants, PAIR, ["good"], max_in_flight=16) as held:
            held.now += LATE_S
            asked = [held.asked("best") for _ in range(11)]
            await held.until_held(11)
            asked.append(held.asked("pair"))
            await held.until_held(12)  # which there was room for
            asked.append(held.asked("best"))
            await held.until_held(13)
            answer = await held.ask("pair")
            assert answer.headers["x-skipvit-model"] == "good/1"
            held.engine.gate.set()
            assert {answer.headers["x-skipvit-model"] for answer in await asyncio.gather(*asked)} == {"best/1"}

    asyncio.run(main())


def test_a_variant_that_is_gone_or_dead_is_passed_over(variants: Path) -> None:
    async def main() -> None:
        own = grouped()
        repository = Repository.open(variants, own)
        async with in_process(repository, own) as client:

            async def ask(**more: str) -> httpx.Response:
                return await client.post(CLASSIFY, params={"model": "shades", **more}, content=WHITE)

            models = dict(repository.models)
            repository._models = {name: model for name, model in models.items() if name != "best"}
            assert (await ask()).headers["x-skipvit-model"] == "better/1"
            gone = await ask(variant="exact")
            assert (gone.status_code, "'best' of group 'shades'" in gone.text) == (503, True)
            models["better"].labels = ("other", *models["better"].labels[1:])
            repository._models = models
            assert (await ask(variant="good")).status_code == 200
            assert (await ask(variant="better")).status_code == 503, "its labels are others now"
            repository._models = {name: models[name] for name in ("clean", "cleaner", "large")}
            assert (await ask()).status_code == 503
            repository._models = {**models, "best": models["cleaner"]}  # a new version of it is for another task
            assert (await ask()).headers["x-skipvit-model"] == "better/1"
            assert (await ask(variant="exact")).status_code == 503
            assert (await client.post("/v2/models/shades/infer", json=OIP_REQUEST)).status_code == 200
            repository._models = dict.fromkeys(("best", "better", "good"), models["cleaner"])
            assert (await ask()).status_code == 503
            repository._models = models

    asyncio.run(main())


def test_the_ladders_of_its_task_are_told_of_a_request_that_finds_the_server_full(
    variants: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Ladder, "press", lambda _ladder, why: told.append(why))

    groups = PAIR | {"photos": GroupSettings(variants=["clean", "cleaner"], p99_ms=60_000)}

    async def main() -> None:
        async with held_best(variants, groups, ["good", "clean", "cleaner"], max_in_flight=1, max_files=1) as held:
            asked = held.asked("best")
            await held.until_held(1)
            assert (await held.ask("pair")).status_code == 429
            held.engine.gate.set()
            assert (await asked).status_code == 200

    asyncio.run(main())
    assert told == ["a request was turned away"]


@pytest.mark.parametrize(
    ("model", "told"),
    [("best", ["shades"]), ("good", ["shades", "sizes"]), ("other", []), ("clean", ["photos"]), (None, ["photos"])],
)
def test_only_the_ladders_that_a_refusal_concerns_are_told_of_it(
    variants: Path, monkeypatch: pytest.MonkeyPatch, model: str | None, told: list[str]
) -> None:
    """A model that is no variant may be full for itself, which no step of a ladder helps."""
    own = grouped()
    repository = Repository.open(variants, own)
    groups = Groups(own, repository, Metrics())
    pressed: list[Ladder] = []
    monkeypatch.setattr(Ladder, "press", lambda ladder, _why: pressed.append(ladder))
    models = {**repository.models, "other": open_model(read_entry(variants, "good"), own)}
    models["other"].name = "other"
    with pytest.raises(Overloaded), groups.told_of_refusals(Chosen(models[model]) if model else "denoising"):
        raise Overloaded("full", 1)
    assert [group.name for group in groups.all if group.ladder in pressed] == told
    for one in (*repository.served, models["other"]):
        one.close()
