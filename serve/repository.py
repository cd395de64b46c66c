"""The models that a server serves: opened from a folder, verified, warmed up, and closed again."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from serve.batcher import Batcher, BatchReport, call_now
from serve.capacity import Capacity
from serve.engine import Engine, EngineInfo, EngineLost
from serve.engine_choice import on_cpu, open_engine
from serve.errors import BadField, NotFound, nearest, quoted
from serve.settings import Settings
from serve.tasks import ROUTES, contract_of
from skipvit.artifacts import (
    LABELS,
    MANIFEST,
    ArtifactCorrupt,
    ArtifactMissing,
    Entry,
    model_names,
    read_entry,
    versions_of,
)
from skipvit.manifest import Task, Tiling
from skipvit.tiling import plan
from skipvit.transforms import Preprocessing

logger = logging.getLogger(__name__)

State = Literal["new", "warming", "ready", "draining", "failed", "closed"]
Deliver = Callable[[Callable[[], None]], object]


class ServedModel:
    """One version of one model: what its manifest says, its engine, and the batcher in front of it."""

    preprocessing: Preprocessing  # of a classifier
    tiling: Tiling  # of a denoiser

    def __init__(
        self, entry: Entry, engine: Engine, settings: Settings, classes: int = 0, info: EngineInfo | None = None
    ) -> None:
        self.entry = entry
        self.name = entry.manifest.name
        self.version = str(entry.manifest.version)
        self.task = entry.manifest.task
        self.labels = entry.labels
        self.classes = classes
        if self.task == "classification":
            self.preprocessing = entry.preprocessing
        else:
            self.tiling = entry.tiling
        self.row = contract_of(entry).row
        self.engine = engine
        self.engine_info = info or on_cpu(entry, "it was handed over open")
        self.capacity = Capacity.of(settings, self.task, on_gpu=self.engine_info.kind != "onnx-cpu")
        self.batcher = Batcher(
            engine,
            max_batch=min(self.capacity.max_batch, getattr(engine, "max_batch", None) or self.capacity.max_batch),
            max_wait_s=settings.max_wait_ms / 1000,
            threads=self.capacity.threads,
            name=self.name,
        )

    @property
    def tiles_ahead(self) -> int:
        """Tiles of one picture of a denoiser that wait or run at a time."""
        return self.capacity.tiles_ahead(self.batcher.max_batch)

    def warm_up(self) -> None:
        """Runs every batch size once, and ends where a run takes longer than the budget.

        The largest size that stayed within it becomes the cap, and the time of a single run the longest wait: what
        waiting saves at best is one run.
        """
        info = self.engine_info
        logger.info("model %s runs on %s, %s (%s): %s", self.name, info.kind, info.device, info.file, info.why)
        largest, budget_s = 1, self.capacity.budget_s
        single_s = self._best_run_s(1)
        sizes = getattr(self.engine, "buckets", None) or range(2, self.batcher.max_batch + 1)
        for size in (size for size in sizes if 1 < size <= self.batcher.max_batch):
            if single_s > budget_s or self._best_run_s(size, tries=2) > budget_s:
                break
            largest = size
        self.batcher.max_batch = largest
        self.batcher.max_wait_s = min(self.batcher.max_wait_s, single_s) if largest > 1 else 0.0
        logger.info(
            "model %s/%s is warm: %.2f ms alone, batches of up to %d, waits up to %.2f ms",
            self.name, self.version, single_s * 1000, largest, self.batcher.max_wait_s * 1000,
        )  # fmt: skip

    def _best_run_s(self, size: int, tries: int = 3) -> float:
        batch = np.zeros((size, *self.row), np.uint8)
        times: list[float] = []
        while len(times) < tries and sum(times) < 10 * self.capacity.budget_s:
            started = time.perf_counter()
            self.engine.run(batch)
            times.append(time.perf_counter() - started)
        return min(times)

    def close(self) -> None:
        self.batcher.close()
        self.engine.close()


class Repository:
    """Served models by name, and the state of the server: new, warming, ready, draining, failed or closed."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.models: Mapping[str, ServedModel] = {model.name: model for model in models}
        if not self.models:
            raise ValueError("a repository needs at least one model to serve, got none")
        # The last one that is put in under a task stays: reversed, that is the first.
        self._firsts: Mapping[Task, ServedModel] = {model.task: model for model in reversed(self.models.values())}
        self.failure: BaseException | None = None
        self._state: State = "new"

    @classmethod
    def open(cls, root: Path, settings: Settings) -> "Repository":
        """Verifies and loads the latest version of every model under ``root``.

        Raises:
            ArtifactError: nothing is there, or something is wrong with it; the message names the file.
            EngineUnavailable: the engine that the settings ask for cannot run here.
        """
        names = model_names(root)
        if not names and versions_of(root):
            raise ArtifactMissing(
                f"{root} is one model, not a folder of models; give its parent, {root.resolve().parent}"
            )
        if not names:
            raise ArtifactMissing(
                f"{root} holds no model such as {root / 'NAME' / '1' / 'model.onnx'}; "
                "make one with `make demo-models` or `skipvit-to-onnx`"
            )
        models: list[ServedModel] = []
        try:
            for name in names:
                models.append(_open_model(read_entry(root, name), settings))
        except BaseException:
            for model in models:  # they may hold a GPU's memory
                model.close()
            raise
        return cls(models)

    @property
    def state(self) -> State:
        """Where the server stands. An engine that died fails it for good: a restart is the cure."""
        if self._state in ("ready", "draining") and not all(model.batcher.alive for model in self.models.values()):
            return "failed"
        return self._state

    def get(self, name: str | None, task: Task) -> ServedModel:
        """The model called ``name``, or the first one of ``task``.

        Raises:
            NotFound: there is no such model; the hint has the nearest names.
            BadField: it is a model of another task; the hint has its route.
        """
        if name is None:
            if task not in self._firsts:
                raise NotFound("no_model", f"no model for {task} is served here", "see GET /v1/models for what is")
            return self._firsts[task]
        model = self.models.get(name)
        if model is None:
            fitting = [known.name for known in self.models.values() if known.task == task]
            raise NotFound("unknown_model", f"there is no model {quoted(name)}", nearest(name, fitting or self.models))
        if model.task != task:
            raise BadField(
                "wrong_task",
                f"model {name!r} is for {model.task}, and {ROUTES[task]} is for {task}",
                f"send it to {ROUTES[model.task]}, or leave model out",
            )
        return model

    def start(self, deliver: Deliver, report: Callable[[ServedModel, BatchReport], None]) -> None:
        """Starts the engine threads; ``deliver`` and ``report`` are as in Batcher.start, per model.

        Tiles are finished where their engine runs: a thread waits for them, not the event loop.
        """
        self._state = "warming"
        for model in self.models.values():
            hand_over = deliver if model.task == "classification" else call_now
            model.batcher.start(hand_over, lambda batch, model=model: report(model, batch))  # type: ignore[misc]  # mypy cannot type the default

    def warm_up(self) -> None:
        """Warms every model; blocks. After it the repository is ready, or failed with ``failure`` set."""
        try:
            for model in self.models.values():
                model.warm_up()
        except (Exception, EngineLost) as error:  # whatever it is, the server must report it and not become ready
            self.failure = error
            self._state = "failed"
            logger.critical("warm-up failed", exc_info=error)
        else:
            if self._state == "warming":
                self._state = "ready"

    def drain(self) -> None:
        """Takes the server out of rotation; what comes is still answered."""
        if self._state != "failed":
            self._state = "draining"

    def close(self) -> None:
        """Finishes what waits and frees the engines."""
        if self._state != "closed":
            self._state = "closed"
            for model in self.models.values():
                model.close()


def _open_model(entry: Entry, settings: Settings) -> ServedModel:
    if entry.manifest.tiling is not None:
        _check_tiling(entry)
    engine, info = open_engine(entry, settings)
    if entry.labels and len(entry.labels) != engine.classes:
        engine.close()
        raise ArtifactCorrupt(
            f"{entry.folder.parent / LABELS} has {len(entry.labels)} labels, {entry.folder / info.file} has "
            f"{engine.classes} classes; write one label a line, in class order"
        )
    return ServedModel(entry, engine, settings, engine.classes, info)


def _check_tiling(entry: Entry) -> None:
    tiling = entry.tiling
    try:
        plan(1, 1, tiling.tile, tiling.halo, tiling.multiple)
    except ValueError as error:
        raise ArtifactCorrupt(f"{entry.folder / MANIFEST}: {error}; export it again") from None
