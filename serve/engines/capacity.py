"""How many threads run a model, in batches of what size: a matter of what it runs on."""

from dataclasses import dataclass

from serve.settings import Settings, available_cpus
from skipvit.manifest import Task

# One batch computes while the other is copied in or out; a third would only wait.
_GPU_THREADS = 2
_MAX_BATCH = {"cpu": 16, "gpu": 64}
_BUDGET_MS = {"cpu": 8.0, "gpu": 25.0}


@dataclass(frozen=True, slots=True)
class Capacity:
    """The settings of one model, resolved.

    ``instances`` engines have ``threads`` threads each; 0 threads, of one engine, run it in the decode threads.
    """

    on_gpu: bool
    threads: int
    max_batch: int
    max_wait_s: float
    budget_s: float
    max_tiles_in_flight: int
    instances: int = 1

    @classmethod
    def of(cls, settings: Settings, name: str, task: Task, on_gpu: bool) -> "Capacity":
        """What the settings say, and what is best where they leave it open.

        A tile takes a hundred times as long as a classifier's picture. In the decode threads it would hold up the
        pictures that a classifier of the same server waits for, so denoisers have threads of their own: one per CPU,
        since a run uses one core, and the system shares the cores fairly between them and the decoders. Whoever asks
        for a number of instances has that many runs at a time on a CPU, and no more.
        """
        own = settings.of(name)
        where = "gpu" if on_gpu else "cpu"
        asked = settings.engine_threads if task == "classification" else settings.tile_threads
        decoders_help = task == "classification" and not settings.fronts  # with fronts, they are other processes
        usual = _GPU_THREADS if on_gpu else 0 if decoders_help else available_cpus()
        if own.instances and not on_gpu:
            usual = 1
        wait_ms = settings.max_wait_ms if own.max_wait_ms is None else own.max_wait_ms
        return cls(
            on_gpu,
            asked or usual,
            own.max_batch or settings.max_batch or _MAX_BATCH[where],
            wait_ms / 1000,
            (settings.batch_budget_ms or _BUDGET_MS[where]) / 1000,
            settings.max_tiles_in_flight,
            own.instances or 1,
        )

    def tiles_ahead(self, batch: int) -> int:
        """Tiles of one picture in flight, of a denoiser that runs batches of up to ``batch``.

        Enough that no engine thread waits while a finished tile is blended and the next is cut, and so few that
        another picture's tile, which queues behind them, starts after at most one tile's time. On a GPU they are as
        many as two full batches, and a third that is being cut.
        """
        if self.max_tiles_in_flight:
            return self.max_tiles_in_flight
        threads = self.threads * self.instances
        return (threads + 1) * batch if self.on_gpu else threads + (threads + 1) // 2
