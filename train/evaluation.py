"""What skipvit-evaluate asks of a task: a report on a checkpoint, as JSON, as pictures and as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from skipvit.checkpoints import CheckpointError, read_checkpoint
from skipvit.origin import task_of_name
from skipvit.picture_files import OriginError
from train.denormals import flushed_denormals
from train.distributed import StrategyError
from train.pictures import DataError


class EvaluationError(Exception):
    """What was asked for does not go with the checkpoint; the message says why."""


EXPECTED = (CheckpointError, OriginError, DataError, StrategyError, EvaluationError)


@dataclass(frozen=True)
class Options:
    """The program's options; those from ``sigmas`` on are for denoisers. See train/evaluate.py."""

    data: str | None
    batch: int
    workers: int
    device: Literal["auto", "cpu", "cuda"]
    sigmas: tuple[float, ...] | None = None
    ensemble: bool = False
    tile: int = 0
    frames: int = 0
    beside: Path | None = None
    weights: Path | None = None


class Report(Protocol):
    """What an evaluation found."""

    @property
    def content(self) -> dict[str, Any]:
        """What evaluation.json holds."""
        ...

    def draw(self, out: Path) -> None:
        """Writes the pictures that go with it into a folder."""
        ...

    def table(self) -> list[str]:
        """Lines for people."""
        ...

    def summary(self) -> dict[str, Any]:
        """What the last line of the program's output says, beside the checkpoint."""
        ...


def evaluate(checkpoint: Path, options: Options) -> Report:
    """Evaluates a checkpoint of any task, or with ``options.weights`` a denoiser of the name ``checkpoint``.

    Raises:
        EXPECTED: the checkpoint, the data or an option cannot be used.
    """
    task = read_checkpoint(checkpoint).task if options.weights is None else task_of_name(str(checkpoint))
    if options.weights is not None and task != "denoising":
        raise EvaluationError(f"--weights goes with the name of a denoiser such as uformer_base, not with {checkpoint}")
    with flushed_denormals():
        if task == "classification":
            from train.measure_classifier import measure_classifier

            if options.sigmas or options.ensemble or options.tile or options.frames or options.beside:
                raise EvaluationError(
                    "--sigma, --ensemble, --tile, --frames and --beside are for denoisers; leave them out"
                )
            return measure_classifier(checkpoint, options)
        if task == "denoising":
            from train.measure_denoiser import measure_denoiser

            if options.frames or options.beside:
                raise EvaluationError("--frames and --beside are for video denoisers; leave them out")
            return measure_denoiser(checkpoint, options)
        from train.measure_video import measure_video

        return measure_video(checkpoint, options)


def trained_on(recipe: dict[str, Any], checkpoint: Path) -> str:
    """The URI of a checkpoint's data.

    Raises:
        DataError: its recipe does not say.
    """
    uri = (recipe.get("data") or {}).get("uri")
    if not isinstance(uri, str):
        raise DataError(f"{checkpoint} does not say what it was trained on; give --data")
    return uri
