"""skipvit-evaluate of a denoiser: PSNR and SSIM for each picture and sigma, beside methods that need no training."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from skipvit.checkpoints import read_checkpoint
from skipvit.denoiser_origin import resolve_denoiser
from skipvit.transforms import Pixels
from train import builtin_photos
from train.classical_denoisers import Best, non_local_means, total_variation
from train.comparison_chart import comparison_chart
from train.denoising import spoiled
from train.denoising_table import table
from train.distributed import processes
from train.evaluation import EvaluationError, Options, trained_on
from train.noise import Picture
from train.photographs import NoisyData, Pair, open_photographs
from train.picture_quality import SSIM_DEFINITION, quality, rounded
from train.restore import restore

T = TypeVar("T")

MODEL, ON_FILE = "model", "model_on_8_bit_file"
# Of so many pictures, evenly spaced, all methods are compared, as long as they have no more than so many pixels all
# together: classical methods take minutes for a dozen megapixels. Of others, the model's figures alone are taken.
_COMPARED, _COMPARED_PIXELS = 24, 1 << 24
_NOISE = "Gaussian, the same in every evaluation, added in floating point and not clipped before a method sees it"
_OWN_NOISE = "the pictures' own"
# CBM3D (Dabov et al., ICIP 2007) as measured with PyPI's bm3d 4.0.3, whose licence keeps it out of this project, on
# the same photographs with other draws of the noise.
_BM3D = {25.0: {"psnr": 33.28, "ssim": 0.905}, 50.0: {"psnr": 29.99}}


class Shown(NamedTuple):
    """What is drawn of one picture."""

    name: str
    sigma: float | None
    clean: Pixels
    noisy: Pixels
    classical: Pixels
    restored: Pixels
    title: str


@dataclass(frozen=True)
class DenoiserReport:
    """``content`` is what evaluation.json holds."""

    content: dict[str, Any]
    shown: list[Shown]

    def draw(self, out: Path) -> None:
        """Writes, for each compared picture, <name>.png clean, <name>_noisy<sigma>.png, and a chart of all methods."""
        for name, sigma, clean, noisy, classical, restored, title in self.shown:
            suffix = "" if sigma is None else f"{sigma:g}"
            Image.fromarray(clean).save(out / f"{name}.png")
            Image.fromarray(noisy).save(out / f"{name}_noisy{suffix}.png")
            panels = {"noisy": noisy, "non-local means": classical, "model": restored, "clean": clean}
            comparison_chart(out / f"{name}_compared{suffix}.png", panels, restored, clean, title)

    def table(self) -> list[str]:
        """Pictures and methods, for each sigma."""
        return table(self.content)

    def summary(self) -> dict[str, Any]:
        """What the last line of the program's output says, beside the checkpoint."""
        return {"dataset": self.content["dataset"], **self.content["metrics"]}


def measure_denoiser(checkpoint: Path, options: Options) -> DenoiserReport:
    """Evaluates a denoiser on the held-out pictures of the data asked for, or of what it was trained on.

    Raises:
        CheckpointError, OriginError, DataError, StrategyError, EvaluationError: something of it cannot be used.
    """
    origin = resolve_denoiser(str(checkpoint), options.weights, {})
    model, recipe = origin.model, {} if options.weights else read_checkpoint(checkpoint).recipe
    data = open_photographs(options.data or trained_on(recipe, checkpoint))
    if data.paired and options.sigmas:
        raise EvaluationError(f"--sigma adds noise, and the pictures of {data.uri} have their own; leave it out")
    sigmas: tuple[float | None, ...] = (None,) if data.paired else options.sigmas or (_sigma_of(recipe, data),)
    with processes(options.device) as process:
        model.to(process.device)
        bench = _Bench(model, process.device, data, options)
        rows, shown = bench.run(sigmas)
    content = {
        "checkpoint": str(checkpoint),
        "architecture": origin.architecture,
        "weights": origin.weights_from,
        "task": origin.task,
        "dataset": data.held_out_name,
        "images": len(data.held_out.names),
        "noise": _OWN_NOISE if data.paired else _NOISE,
        "ssim_definition": SSIM_DEFINITION,
        "ensemble": options.ensemble,
        "tile": options.tile or None,
        "metrics": _metrics(rows, sigmas),
        "means": [{"sigma": sigma, "methods": _means(rows, sigma)} for sigma in sigmas],
        "results": rows,
        "quoted": _quoted(data, sigmas),
    }
    return DenoiserReport(content, shown)


def _sigma_of(recipe: dict[str, Any], data: NoisyData) -> float:
    """The sigma that training evaluated at; 25 where it does not say."""
    if data.sigma is not None and len(data.sigma.values) == 1:
        return data.sigma.values[0]
    written = (recipe.get("noise") or {}).get("held_out_sigma")
    return float(written) if isinstance(written, int | float) else 25.0


@dataclass(frozen=True)
class _Bench:
    """A model and the data that it is measured on."""

    model: nn.Module
    device: torch.device
    data: NoisyData
    options: Options

    def run(self, sigmas: tuple[float | None, ...]) -> tuple[list[dict[str, Any]], list[Shown]]:
        held_out = self.data.held_out
        n = len(held_out.names)
        compared = set(np.linspace(0, n - 1, min(n, _COMPARED)).round().astype(int).tolist())
        rows, shown, pixels_left = list[dict[str, Any]](), list[Shown](), _COMPARED_PIXELS
        with tqdm(total=n * len(sigmas), unit="picture", leave=False, disable=None) as bar:
            for index, name in enumerate(held_out.names):
                pair = held_out.open(index)
                pixels = pair.clean.shape[0] * pair.clean.shape[1]
                compare = index in compared and pixels <= pixels_left
                pixels_left -= pixels if compare else 0
                for sigma in sigmas:
                    bar.set_postfix_str(name if sigma is None else f"{name}, sigma {sigma:g}")
                    row, drawn = self._row(pair, name, sigma, compare)
                    rows.append(row)
                    shown += drawn
                    bar.update()
        return rows, shown

    def _row(self, pair: Pair, name: str, sigma: float | None, compare: bool) -> tuple[dict[str, Any], list[Shown]]:
        """Figures of one picture, and what is to be drawn of it."""
        noisy = spoiled(pair, name, sigma or 0.0)
        restored, seconds = self._restored(noisy)
        methods = {MODEL: {**asdict(quality(restored, pair.clean)), "cpu_seconds": seconds}}
        row = {"image": name, "sigma": sigma, "methods": methods}
        if not compare:
            return row, []
        methods["noisy"] = asdict(quality(noisy, pair.clean))
        # what a server gets is a file of 8 bits, whose noise is clipped and rounded
        file = rounded(noisy)
        methods[ON_FILE] = asdict(quality(self._restored(file.astype(np.float32) / np.float32(255))[0], pair.clean))
        classical = {"total_variation": total_variation, "non_local_means": non_local_means}
        pictures = {method: _classical(run, noisy, pair.clean, methods, method) for method, run in classical.items()}
        means, ours = (methods[method]["psnr"] for method in ("non_local_means", MODEL))
        title = f"{name}, {methods['noisy']['psnr']:.2f} dB: non-local means {means:.2f} dB, model {ours:.2f} dB"
        return row, [Shown(name, sigma, pair.clean, file, pictures["non_local_means"], rounded(restored), title)]

    def _restored(self, noisy: Picture) -> tuple[Picture, float]:
        options = self.options
        try:
            return _timed(lambda: restore(self.model, noisy, self.device, options.ensemble, options.tile))
        except ValueError as error:
            raise EvaluationError(f"--tile {options.tile} cannot be used: {error}") from None


def _classical(
    run: Callable[[Picture, Pixels, float], Best],
    noisy: Picture,
    clean: Pixels,
    methods: dict[str, dict[str, float]],
    method: str,
) -> Pixels:
    """What a classical method makes of a picture; its figures go into ``methods``."""
    deviation = float(np.std(noisy - clean.astype(np.float32) / np.float32(255)))
    # strengths in units of no noise are nothing to divide by
    best, seconds = _timed(lambda: run(noisy, clean, deviation) if deviation else Best(noisy, 0.0))
    methods[method] = {**asdict(quality(best.picture, clean)), "strength": best.strength, "cpu_seconds": seconds}
    return rounded(best.picture)


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """What ``run`` returns, and the CPU time that it took."""
    start = time.process_time()
    return run(), round(time.process_time() - start, 3)


def _metrics(rows: list[dict[str, Any]], sigmas: tuple[float | None, ...]) -> dict[str, float]:
    """The model's means at sigma 25 where it was asked for, else at the first."""
    sigma = 25.0 if 25.0 in sigmas else sigmas[0]
    return {name: value for name, value in _means(rows, sigma)[MODEL].items() if name != "cpu_seconds"}


def _means(rows: list[dict[str, Any]], sigma: float | None) -> dict[str, dict[str, float]]:
    """Of each method, over the pictures that it saw."""
    mine = [row["methods"] for row in rows if row["sigma"] == sigma]
    methods = dict.fromkeys(method for figures in mine for method in figures)
    return {method: dict(_mean([figures[method] for figures in mine if method in figures])) for method in methods}


def _mean(figures: list[dict[str, float]]) -> Iterator[tuple[str, float]]:
    for name in figures[0]:
        if name != "strength":
            yield name, float(np.mean([figure[name] for figure in figures]))


def _quoted(data: NoisyData, sigmas: tuple[float | None, ...]) -> list[dict[str, Any]]:
    """Figures of others that were not measured here."""
    if data.uri != builtin_photos.URI:
        return []
    source = "PyPI bm3d 4.0.3, same pictures, other draws of the noise; not run here"
    return [{"method": "BM3D", "sigma": s, **_BM3D[s], "source": source} for s in sigmas if s in _BM3D]
