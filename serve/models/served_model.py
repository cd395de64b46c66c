"""One version of one model, served: what its manifest says, its engine, and the batcher in front of it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from serve.batcher import Batcher
from serve.engines.capacity import Capacity
from serve.engines.choice import on_cpu, open_engine
from serve.engines.engine import Engine, EngineInfo
from serve.models.folder import fingerprint_of
from serve.settings import Settings
from serve.tasks import ServedTask, contract_of
from skipvit.artifacts import LABELS, MANIFEST, ArtifactCorrupt, Entry
from skipvit.manifest import Tiling
from skipvit.tiling import plan
from skipvit.transforms import Preprocessing

logger = logging.getLogger(__name__)


class ServedModel:
    """One version of one model: what its manifest says, its engine, and the batcher in front of it."""

    task: ServedTask
    preprocessing: Preprocessing  # of a classifier
    tiling: Tiling  # of a denoiser

    def __init__(
        self,
        entry: Entry,
        engine: Engine,
        settings: Settings,
        classes: int = 0,
        info: EngineInfo | None = None,
        others: Sequence[Engine] = (),
    ) -> None:
        manifest = entry.manifest
        self.entry = entry
        self.labels = entry.labels
        self.classes = classes
        if manifest.task == "classification":
            self.preprocessing = entry.preprocessing
        else:
            self.tiling = entry.tiling
        self.row = contract_of(entry).row
        info = info or on_cpu(entry, "it was handed over open")
        self.capacity = Capacity.of(settings, manifest.name, manifest.task, on_gpu=info.kind != "onnx-cpu")
        batcher = Batcher(
            engine,
            max_batch=min(self.capacity.max_batch, getattr(engine, "max_batch", None) or self.capacity.max_batch),
            max_wait_s=self.capacity.max_wait_s,
            threads=self.capacity.threads,
            name=manifest.name,
            others=others,
        )
        self._set_up(manifest.name, manifest.version, manifest.task, entry.folder, info, engine, batcher, others)

    def _set_up(
        self,
        name: str,
        version: int,
        task: ServedTask,
        folder: Path,
        info: EngineInfo,
        engine: Engine,
        batcher: Batcher,
        others: Sequence[Engine] = (),
    ) -> None:
        """What every model has, whoever made it."""
        self.name = name
        self.version = str(version)
        self.task = task
        self.folder = folder
        self.fingerprint = fingerprint_of(folder)
        self.engine_info = info
        self.engine = engine
        self._others = others  # of the same kind
        self.batcher = batcher
        self.alone_s = self.row_s = 0.0  # measured at warm-up: one run of one row, and a row's part of a full batch
        self.users = 0  # requests, and what goes on behind clients that hung up; on the event loop only
        self._when_idle: Callable[[], object] | None = None
        self._closed = False

    @property
    def tiles_ahead(self) -> int:
        """Tiles of one picture of a denoiser that wait or run at a time."""
        return self.capacity.tiles_ahead(self.batcher.max_batch)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Held from the look-up of the model until nothing more is asked of it: nobody closes it meanwhile."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            if not self.users and self._when_idle is not None:
                call, self._when_idle = self._when_idle, None
                call()

    def when_idle(self, call: Callable[[], object]) -> None:
        """Calls ``call`` as soon as nobody uses the model, of which no more are to come."""
        if self.users:
            self._when_idle = call
        else:
            call()

    def warm_up(self) -> None:
        """Runs every batch size once, and ends where a run takes longer than the budget.

        The largest size that stayed within it becomes the cap, and the time of a single run the longest wait: what
        waiting saves at best is one run.
        """
        info = self.engine_info
        logger.info("model %s runs on %s, %s (%s): %s", self.name, info.kind, info.device, info.file, info.why)
        largest, budget_s = 1, self.capacity.budget_s
        self.alone_s = self.row_s = single_s = self._best_run_s(1)
        sizes = getattr(self.engine, "buckets", None) or range(2, self.batcher.max_batch + 1)
        for size in (size for size in sizes if 1 < size <= self.batcher.max_batch):
            if single_s > budget_s or (run_s := self._best_run_s(size, tries=2)) > budget_s:
                break
            largest, self.row_s = size, run_s / size
        for engine in self._others:
            for size in {1, *(size for size in sizes if size <= largest)}:
                engine.run(np.zeros((size, *self.row), np.uint8))
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
            rows = self.engine.run(batch)
            times.append(time.perf_counter() - started)
            if rows.dtype.kind == "f" and not np.isfinite(rows).all():
                raise ArtifactCorrupt(
                    f"{self.entry.folder / self.engine_info.file} gives numbers that are not finite for a black "
                    "picture; export it again"
                )
        return min(times)

    def close(self) -> bool:
        """Has the batcher finish what waits and frees the engine; blocks. Whether it could: a run may be stuck."""
        if not self._closed and self.batcher.close():
            for engine in (self.engine, *self._others):
                engine.close()
            self._closed = True
        return self._closed


def open_model(entry: Entry, settings: Settings) -> ServedModel:
    """Loads the model of a repository's entry; it is neither started nor warm.

    Raises:
        ArtifactError: something is wrong with its files; the message names the one.
        EngineUnavailable: the engine that the settings ask for cannot run here.
    """
    if entry.manifest.tiling is not None:
        _check_tiling(entry)
    engine, info = open_engine(entry, settings)
    if entry.labels and len(entry.labels) != engine.classes:
        engine.close()
        raise ArtifactCorrupt(
            f"{entry.folder.parent / LABELS} has {len(entry.labels)} labels, {entry.folder / info.file} has "
            f"{engine.classes} classes; write one label a line, in class order"
        )
    others: list[Engine] = []
    try:
        for _ in range(1, settings.of(entry.manifest.name).instances or 1):
            others.append(open_engine(entry, settings)[0])
    except BaseException:
        for one in (engine, *others):  # they may hold a GPU's memory
            one.close()
        raise
    return ServedModel(entry, engine, settings, engine.classes, info, others)


def _check_tiling(entry: Entry) -> None:
    tiling = entry.tiling
    try:
        plan(1, 1, tiling.tile, tiling.halo, tiling.multiple)
    except ValueError as error:
        raise ArtifactCorrupt(f"{entry.folder / MANIFEST}: {error}; export it again") from None
