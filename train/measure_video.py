"""skipvit-evaluate of a video denoiser: PSNR and SSIM for each sequence and sigma, beside its noisy input.

A second checkpoint, of a denoiser of pictures or of a video denoiser with other frames, is measured on the same noise.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from skipvit.checkpoints import load_model
from skipvit.transforms import Pixels
from train.clip_data import open_videos
from train.clip_files import can_write, write_clip
from train.comparison_chart import comparison_chart
from train.distributed import processes
from train.evaluation import EvaluationError, Options, trained_on
from train.noise import Picture, saved
from train.picture_quality import SSIM_DEFINITION, psnr, rounded
from train.restore_clip import restore_clip
from train.video_quality import Restorer, Sequence, frame_qualities, mean
from train.video_table import table

MODEL, BESIDE, NOISY, ON_FILE = "model", "beside", "noisy", "model_on_8_bit_file"
_SIGMA = 30.0
_NOISE = "Gaussian, drawn once for the whole sequence, the same in every evaluation, in floating point and not clipped"
# Of so many sequences the middle frame is drawn, and clips are written for a server to try.
_DRAWN = 12


class Shown(NamedTuple):
    """A sequence, and its middle frame as all methods have it."""

    sequence: Sequence
    panels: dict[str, Pixels]
    title: str


@dataclass(frozen=True)
class VideoReport:
    """``content`` is what evaluation.json holds."""

    content: dict[str, Any]
    shown: list[Shown]

    def draw(self, out: Path) -> None:
        """Writes, for some sequences, <name>.mkv, <name>_noisy<sigma>.mkv and a chart of the middle frame."""
        for sequence, panels, title in self.shown:
            name, sigma = sequence.name, f"{sequence.sigma:g}"
            comparison_chart(out / f"{name}_compared{sigma}.png", panels, panels[MODEL], panels["clean"], title)
            if can_write():
                write_clip(out / f"{name}.mkv", sequence.clean())
                write_clip(out / f"{name}_noisy{sigma}.mkv", map(rounded, sequence.noisy()))

    def table(self) -> list[str]:
        """One block of lines for each sigma."""
        return table(self.content)

    def summary(self) -> dict[str, Any]:
        """What the last line of the program's output says, beside the checkpoint."""
        return {"dataset": self.content["dataset"], **self.content["metrics"]}


def measure_video(checkpoint: Path, options: Options) -> VideoReport:
    """Evaluates a video denoiser on the held-out sequences of the data asked for, or of what it was trained on.

    Raises:
        CheckpointError, DataError, StrategyError, EvaluationError: something of it cannot be used.
    """
    if options.ensemble or options.tile:
        raise EvaluationError("--ensemble and --tile are for denoisers of pictures; leave them out")
    model, description = load_model(checkpoint)
    models = {MODEL: model}
    if options.beside is not None:
        models[BESIDE], other = load_model(options.beside)
        if other.task == "classification":
            raise EvaluationError(f"--beside {options.beside} is a classifier; give a denoiser")
    data = open_videos(options.data or trained_on(description.recipe, checkpoint))
    videos, sigmas = data.held_out, options.sigmas or (_sigma_of(description.recipe),)
    sequences = [
        Sequence(videos, index, sigma, options.frames) for index in range(len(videos.names)) for sigma in sigmas
    ]
    with processes(options.device) as process:
        for each in models.values():
            each.to(process.device)
        rows, shown = [], list[Shown]()
        for number, sequence in enumerate(tqdm(sequences, unit="sequence", leave=False, disable=None)):
            row, drawn = _measure(sequence, models, process.device)
            rows.append(row)
            shown += [drawn] if number < _DRAWN * len(sigmas) else []
    means = [{"sigma": sigma, "methods": _means(rows, sigma)} for sigma in sigmas]
    content = {
        "checkpoint": str(checkpoint),
        "architecture": description.architecture,
        "beside": None if options.beside is None else str(options.beside),
        "dataset": data.held_out_name,
        "sequences": len(videos.names),
        "first_frames": options.frames or None,
        "noise": _NOISE,
        "averaging": "frames of a sequence, then sequences",
        "ssim_definition": SSIM_DEFINITION,
        "metrics": _metrics(means),
        "means": means,
        "results": rows,
    }
    return VideoReport(content, shown)


def _sigma_of(recipe: dict[str, Any]) -> float:
    """The sigma that training evaluated at."""
    written = (recipe.get("noise") or {}).get("held_out_sigma")
    return float(written) if isinstance(written, int | float) else _SIGMA


@dataclass
class _Keeping:
    """A restorer that remembers one frame of what it restored."""

    restore: Restorer
    number: int
    frame: Picture | None = None

    def __call__(self, noisy: Iterable[Picture]) -> Iterator[Picture]:
        for number, frame in enumerate(self.restore(noisy)):
            if number == self.number:
                self.frame = frame
            yield frame

    def pixels(self) -> Pixels:
        assert self.frame is not None, "it has been called"
        return rounded(self.frame)


def _measure(sequence: Sequence, models: dict[str, nn.Module], device: torch.device) -> tuple[dict[str, Any], Shown]:
    """Figures of one sequence, and what is to be drawn of it."""
    count = sum(1 for _ in sequence.clean())
    clean = next(islice(sequence.clean(), count // 2, None))
    unchanged = _Keeping(iter, count // 2)
    methods: dict[str, dict[str, float]] = {NOISY: asdict(mean(frame_qualities(sequence, unchanged)))}
    panels = {NOISY: unchanged.pixels()}
    for name, model in models.items():
        kept = _Keeping(partial(restore_clip, model, sigma=sequence.sigma, device=device), count // 2)
        start = time.process_time()
        found = mean(frame_qualities(sequence, kept))
        seconds = (time.process_time() - start) / count
        methods[name] = {**asdict(found), "cpu_seconds": round(seconds, 3)}
        panels[name] = kept.pixels()
    # what a server gets is a file of 8 bits, whose noise is clipped and rounded
    on_file = partial(_on_file, partial(restore_clip, models[MODEL], sigma=sequence.sigma, device=device))
    methods[ON_FILE] = asdict(mean(frame_qualities(sequence, on_file)))
    row = {"sequence": sequence.name, "sigma": sequence.sigma, "frames": count, "methods": methods}
    title = f"{sequence.name}, sigma {sequence.sigma:g}, frame {count // 2}: {psnr(panels[MODEL], clean):.2f} dB"
    return row, Shown(sequence, {**panels, "clean": clean}, title)


def _metrics(means: list[dict[str, Any]]) -> dict[str, float]:
    """The model's means at the first sigma, and what they are to be compared with."""
    methods = means[0]["methods"]
    beside = {f"psnr_{BESIDE}": methods[BESIDE]["psnr"]} if BESIDE in methods else {}
    figures = {name: value for name, value in methods[MODEL].items() if name != "cpu_seconds"}
    return {"sigma": means[0]["sigma"], **figures, "psnr_noisy": methods[NOISY]["psnr"], **beside}


def _on_file(restore: Restorer, noisy: Iterable[Picture]) -> Iterator[Picture]:
    return restore(map(saved, noisy))


def _means(rows: list[dict[str, Any]], sigma: float) -> dict[str, dict[str, float]]:
    """Of each method, over the sequences."""
    mine = [row["methods"] for row in rows if row["sigma"] == sigma]
    return {
        method: {figure: float(np.mean([methods[method][figure] for methods in mine])) for figure in figures}
        for method, figures in mine[0].items()
    }
