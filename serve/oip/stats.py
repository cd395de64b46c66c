"""Statistics of the requests of the Open Inference Protocol, per version of a model, as Triton's extension has them.

Counts are of requests, as Triton's are; ``inference_count`` is of rows, ``execution_count`` of runs of the model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from serve.models.served_model import ServedModel
from serve.ticket import Ticket

_T = TypeVar("_T")

Stage = Literal["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]
_STAGES: tuple[Stage, ...] = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


_BatchStage = Literal["compute_input", "compute_infer", "compute_output"]
_BATCH_STAGES: tuple[_BatchStage, ...] = ("compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class _Duration:
    """How often, and how long together. A run that requests share is counted in parts, and so is its time."""

    count: float = 0.0
    seconds: float = 0.0

    def add(self, seconds: float, count: float = 1.0) -> None:
        self.count += count
        self.seconds += seconds

    def render(self) -> dict[str, int]:
        return {"count": round(self.count), "ns": int(self.seconds * 1e9)}


def _durations(names: Sequence[_T]) -> dict[_T, _Duration]:
    return {name: _Duration() for name in names}


@dataclass(slots=True)
class _ModelStats:
    stages: dict[Stage, _Duration] = field(default_factory=lambda: _durations(_STAGES))
    batches: dict[int, dict[_BatchStage, _Duration]] = field(default_factory=dict)
    rows: int = 0
    executions: float = 0.0
    last_ms: int = 0

    def ran(self, size: int, share: float, infer_s: float, input_s: float = 0.0) -> None:
        """Counts ``share`` of a run of ``size`` rows, which took ``infer_s`` altogether."""
        self.executions += share
        batch = self.batches.setdefault(size, _durations(_BATCH_STAGES))
        batch["compute_infer"].add(infer_s * share, share)
        batch["compute_input"].add(input_s, share)
        batch["compute_output"].add(0.0, share)


class Statistics:
    """What requests took since the server started. Used on the event loop only."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], _ModelStats] = {}

    def failed(self, model: ServedModel, seconds: float) -> None:
        """Counts a request that got an error."""
        self._of(model).stages["fail"].add(seconds)

    def succeeded(self, model: ServedModel, seconds: float, rows: int, encode_s: float) -> None:
        """Counts a request of ``rows`` rows that got an answer, and the time that making it took."""
        stats = self._of(model)
        stats.stages["success"].add(seconds)
        stats.stages["compute_output"].add(encode_s)
        stats.rows += rows
        stats.last_ms = time.time_ns() // 1_000_000

    def ran(self, model: ServedModel, tickets: Sequence[Ticket]) -> None:
        """Counts the rows of one request, which waited and ran side by side: what took longest is its time."""
        stats = self._of(model)
        stats.stages["queue"].add(max(ticket.queue_s for ticket in tickets))
        stats.stages["compute_input"].add(max(ticket.decode_s for ticket in tickets))
        stats.stages["compute_infer"].add(max(ticket.infer_s for ticket in tickets))
        for ticket in tickets:
            size = max(1, ticket.batch_size)
            stats.ran(size, 1 / size, ticket.infer_s, ticket.decode_s)

    def ran_whole(self, model: ServedModel, ticket: Ticket, rows: int, size: int) -> None:
        """Counts a request that ran as a whole: its ``rows`` among the ``size`` of a run."""
        stats = self._of(model)
        stats.stages["queue"].add(ticket.queue_s)
        stats.stages["compute_input"].add(ticket.decode_s)
        stats.stages["compute_infer"].add(ticket.infer_s)
        stats.ran(size, rows / size, ticket.infer_s, ticket.decode_s)

    def tiles(self, model: ServedModel, waits_s: Sequence[float], runs_s: Sequence[float]) -> None:
        """Counts the tiles of one picture; each is a row to its model, and counts as a run of it."""
        stats = self._of(model)
        stats.stages["queue"].add(sum(waits_s))
        stats.stages["compute_infer"].add(sum(runs_s))
        for ran in runs_s:
            stats.ran(1, 1.0, ran)

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
            "inference_stats": {stage: took.render() for stage, took in stats.stages.items()},
            "batch_stats": [
                {"batch_size": size, **{stage: took.render() for stage, took in stages.items()}}
                for size, stages in sorted(stats.batches.items())
            ],
        }

    def forget(self, name: str, version: str) -> None:
        """Drops what is known of a version that is no longer served."""
        self._models.pop((name, version), None)

    def _of(self, model: ServedModel) -> _ModelStats:
        return self._models.setdefault((model.name, model.version), _ModelStats())
