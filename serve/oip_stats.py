"""Statistics of the requests of the Open Inference Protocol, per model, as Triton's statistics extension has them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.served_model import ServedModel
from serve.ticket import Ticket

Stage = Literal["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]
_STAGES: tuple[Stage, ...] = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class _Duration:
    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _ModelStats:
    stages: dict[Stage, _Duration] = field(default_factory=lambda: {stage: _Duration() for stage in _STAGES})
    rows: int = 0
    executions: float = 0.0
    last_ms: int = 0


class Statistics:
    """What requests took since the server started. Used on the event loop only."""

    def __init__(self) -> None:
        self._models: dict[str, _ModelStats] = {}

    def failed(self, model: ServedModel, seconds: float) -> None:
        """Counts a request that got an error."""
        _add(self._of(model), "fail", seconds)

    def succeeded(self, model: ServedModel, seconds: float, rows: int, encode_s: float) -> None:
        """Counts a request of ``rows`` rows that got an answer, and the time that making it took."""
        stats = self._of(model)
        _add(stats, "success", seconds)
        _add(stats, "compute_output", encode_s)
        stats.rows += rows
        stats.last_ms = time.time_ns() // 1_000_000

    def ran(self, model: ServedModel, tickets: Sequence[Ticket]) -> None:
        """Counts rows that a model has run; of a run that they shared with others', their share."""
        stats = self._of(model)
        for ticket in tickets:
            _add(stats, "queue", ticket.queue_s)
            _add(stats, "compute_input", ticket.decode_s)
            _add(stats, "compute_infer", ticket.infer_s)
            stats.executions += 1 / max(1, ticket.batch_size)

    def tiles(self, model: ServedModel, waits_s: Sequence[float], runs_s: Sequence[float]) -> None:
        """Counts the tiles of one picture; each is a row to its model, and counts as a run of it."""
        stats = self._of(model)
        for waited, ran in zip(waits_s, runs_s, strict=True):
            _add(stats, "queue", waited)
            _add(stats, "compute_infer", ran)
        stats.executions += len(runs_s)

    def render(self, models: Sequence[ServedModel]) -> dict[str, Any]:
        """The answer to a request for statistics of these models."""
        return {"model_stats": [self._render(model) for model in models]}

    def _render(self, model: ServedModel) -> dict[str, Any]:
        stats = self._of(model)
        return {
            "name": model.name,
            "version": model.version,
            "last_inference": stats.last_ms,
            "inference_count": stats.rows,
            "execution_count": round(stats.executions),
            "inference_stats": {
                stage: {"count": took.count, "ns": int(took.seconds * 1e9)} for stage, took in stats.stages.items()
            },
            "batch_stats": [],
        }

    def _of(self, model: ServedModel) -> _ModelStats:
        return self._models.setdefault(model.name, _ModelStats())


def _add(stats: _ModelStats, stage: Stage, seconds: float) -> None:
    took = stats.stages[stage]
    took.count += 1
    took.seconds += seconds
