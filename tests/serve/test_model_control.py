"""Any sequence of loads, unloads, failures and requests leaves one consistent table, and no engine open or lost."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from serve.engines.engine import EngineLost, Rows
from serve.models import control as model_control
from serve.models import revival
from serve.models.control import ModelControl
from serve.models.loading import LoadFailed
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from skipvit.artifacts import ArtifactCorrupt, Entry, read_entry
from skipvit.transforms import Pixels
from tests.serve.servers import CLASSES, until, write_model

NAMES = ("one", "two")
Step = tuple[str, str, int]
STEPS = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(["load", "unload", "corrupt", "lost", "die", "use", "leave"]),
        strategies.sampled_from(NAMES),
        strategies.integers(1, 3),
    ),
    max_size=14,
)
SETTINGS = Settings(engine_threads=1, models={name: {"versions": "all"} for name in NAMES})  # type: ignore[misc]


class ToyEngine:
    """Counts as open until it is closed, once."""

    def __init__(self) -> None:
        self.open = True

    def run(self, batch: Pixels) -> Rows:
        assert self.open, "a closed engine was run"
        return np.zeros((len(batch), CLASSES), np.float32)

    def close(self) -> None:
        assert self.open, "an engine was closed twice"
        self.open = False


class World:
    """A repository whose versions are opened without files; what ``breaks`` is raised instead."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.there: dict[str, dict[int, Any]] = {name: {1: ("v1",)} for name in NAMES}
        self.breaks: BaseException | None = None
        self.engines: list[ToyEngine] = []
        self.repository = Repository([self.open(None, name, 1, SETTINGS) for name in NAMES])
        self.control = ModelControl(SETTINGS, self.repository, Metrics())

    def open(self, _root: Path | None, name: str, version: int, _settings: Settings) -> ServedModel:
        if self.breaks is not None:
            raise self.breaks
        manifest = self.entry.manifest.model_copy(update={"name": name, "version": version})
        engine = ToyEngine()
        self.engines.append(engine)
        return ServedModel(Entry(manifest, self.entry.folder, self.entry.labels), engine, SETTINGS, CLASSES)

    def check(self) -> None:
        """What must hold between any two steps."""
        repository = self.repository
        by_name: dict[str, list[int]] = {}
        for model in repository.served:
            by_name.setdefault(model.name, []).append(int(model.version))
        assert {name: max(versions) for name, versions in by_name.items()} == {
            name: int(model.version) for name, model in repository.models.items()
        }
        assert list(repository.models) == sorted(repository.models)
        for model in repository.served:
            assert repository.find(model.name, model.version) is model
            assert model.engine.open or not model.batcher.alive  # type: ignore[attr-defined]
        assert {model.batcher for model in repository.served} <= set(repository.batchers)


async def play(world: World, steps: Sequence[Step]) -> None:
    repository, control = world.repository, world.control
    repository.start(asyncio.get_running_loop().call_soon_threadsafe, lambda model, report: None)
    repository.warm_up()
    control.start()
    users: list[Any] = []
    for action, name, version in steps:
        world.breaks = {"corrupt": ArtifactCorrupt("bad"), "lost": EngineLost("gone")}.get(action)
        before = dict(repository.versions(name))
        if action in ("load", "corrupt", "lost"):
            world.there[name] = {version: (f"v{version}",)}
            try:
                await control.load(name)
                assert list(repository.versions(name)) == [str(version)]
            except LoadFailed:
                assert world.breaks is not None
                assert dict(repository.versions(name)) == before
        elif action == "unload":
            assert await control.unload(name) is bool(before)
            assert not repository.versions(name)
        elif action == "die":
            for model in before.values():
                model.batcher._die(RuntimeError("killed by the test"))
        elif action == "use" and before:
            using = next(iter(before.values())).in_use()
            using.__enter__()
            users.append(using)
        elif action == "leave" and users:
            users.pop().__exit__(None, None, None)
        world.check()
    world.breaks = None
    for using in users:
        using.__exit__(None, None, None)
    await until(lambda: all(model.batcher.alive for model in repository.served))
    await until(lambda: len(repository.batchers) == len(repository.served))
    world.check()
    assert sum(engine.open for engine in world.engines) == len(repository.served)
    await control.close()
    repository.close()
    assert not any(engine.open for engine in world.engines)


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    root = tmp_path_factory.mktemp("one")
    write_model(root, "one")
    return read_entry(root, "one")


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_any_sequence_leaves_a_consistent_table(entry: Entry, steps: list[Step]) -> None:
    world = World(entry)
    with (
        mock.patch.object(model_control, "load_version", world.open),
        mock.patch.object(model_control, "look_into", return_value=world.there),
        mock.patch.object(revival, "pause_s", return_value=0.0),
        mock.patch.object(revival, "_LOOK_FOR_DEAD_S", 0.002),
    ):
        asyncio.run(play(world, steps))
