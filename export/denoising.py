"""Denoisers: noisy uint8 pictures of many sizes in, clean ones out, compared in dB."""

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import onnx
import torch
from PIL import Image
from pydantic import ValidationError

from export.deploy_denoiser import DeployDenoiser
from export.graph import INPUT, module_to_graph
from export.job import DTYPES, Job, Precision
from export.measures import Floats
from export.noisy_pictures import clean_pictures, noisy_batch
from export.restoration import DENOISED, RESTORED, compare_restored, torch_restored
from skipvit.denoiser_origin import DenoiserOrigin
from skipvit.manifest import Parity, Tensor, Tiling
from skipvit.transforms import Pixels

_TILE, _HALO = 256, 16
_MAX_SIDE = 1 << 14  # of a picture that the graph takes whole
_MAX_SAMPLES = 8


class DenoisingJob(Job):
    """A denoiser, how its pictures are cut, and the pictures to compare on.

    Args:
        images: folder of pictures to compare on instead of the checkpoint's.
        tile: side of the square tiles in pixels; by default 256, or the model's multiple where that is larger.
        halo: in pixels; 16 by default.

    Raises:
        OriginError: a picture cannot be read.
        ValueError: the model does not take such tiles.
    """

    max_batch = 8
    _input, _channels = INPUT, 3

    def __init__(self, origin: DenoiserOrigin, images: Path | None, tile: int | None, halo: int | None) -> None:
        self.task = origin.task
        self.model, self.architecture = origin.model, origin.architecture
        self.weights_from, self.evaluation = origin.weights_from, origin.evaluation
        if (channels := getattr(origin.model, "in_chans", 3)) != 3:
            raise ValueError(f"pictures have 3 channels, got in_chans={channels}; leave it out")
        self._multiple = int(getattr(origin.model, "multiple", 1))
        self._tiling = self.tiling = self._planned(plan_tiling(self.architecture, self._multiple, tile, halo))
        axes: tuple[int | str, ...] = ("batch", *self._leading, "height", "width")
        self.inputs = (Tensor(name=self._input, dtype="uint8", shape=(*axes, self._channels)),)
        self.outputs = (
            Tensor(name=DENOISED, dtype="uint8", shape=(*axes, 3)),
            Tensor(name=RESTORED, dtype="float32", shape=(*axes, 3)),
        )
        self._samples = origin.samples
        self._pictures, self._source = clean_pictures(list(origin.samples.images) if origin.samples else None, images)

    def graph(self, precision: Precision, opset: int) -> onnx.ModelProto:
        deployable = DeployDenoiser(self.model, DTYPES[precision])
        shape = (2, *self._leading, 2 * self._multiple, 3 * self._multiple, self._channels)
        return denoiser_graph(deployable, self._multiple, opset, {self._input: torch.zeros(shape, dtype=torch.uint8)})

    def compare(self, path: Path, precision: Precision) -> Parity:
        return compare_restored(self._reference, path, precision, self._batches, self._source)

    def example(self) -> torch.Tensor:
        return torch.zeros(1, 3, self._tiling.tile, self._tiling.tile)

    def write_samples(self, folder: Path) -> tuple[str, ...]:
        if self._samples is None:
            return ()
        pictures = self._samples.images[:_MAX_SAMPLES]
        names = sample_names(self._samples.names[:_MAX_SAMPLES])
        for name, picture in zip(names, pictures, strict=True):
            Image.fromarray(picture).save(folder / name, optimize=True)
        return names

    @property
    def _leading(self) -> tuple[int, ...]:
        """Sizes of the axes between the batch and the height."""
        return ()

    def _planned(self, tiling: Tiling) -> Tiling:
        return tiling

    def _batch(self, count: int, height: int, width: int, seed: int) -> Pixels:
        """Noisy input of the graph."""
        return noisy_batch(self._pictures, count, height, width, seed)

    @cached_property
    def _batches(self) -> list[Pixels]:
        """Two sizes, one of them not square and no tile's, and two batch sizes."""
        tile, step = self._tiling.tile, self._multiple
        sizes = [(1, tile, tile), (3, tile, tile), (1, tile + step, tile + 2 * step)]
        return [self._batch(*size, seed=index) for index, size in enumerate(sizes)]

    @cached_property
    def _reference(self) -> list[Floats]:
        return torch_restored(self.model, self._batches)


def plan_tiling(architecture: str, multiple: int, tile: int | None, halo: int | None) -> Tiling:
    """The tiles that a model is served in.

    Raises:
        ValueError: the model does not take such tiles; the message names those that it takes.
    """
    if tile is None:  # about 256, and neighbours with their halos still a step apart
        wanted = max(_TILE, multiple + 2 * (_HALO if halo is None else halo))
        tile = -(-wanted // multiple) * multiple
    if tile % multiple:
        below = tile // multiple * multiple
        takes = f"{below} or {below + multiple}" if below else str(multiple)
        raise ValueError(f"--tile {tile} is no multiple of {multiple}, which {architecture} needs; give {takes}")
    most = (tile - multiple) // 2  # tiles are laid in steps of the multiple
    halo = min(_HALO, most) if halo is None else halo
    if halo > most:
        raise ValueError(
            f"--halo {halo} on both sides leaves less than a step of {multiple} of a tile of {tile}; "
            f"give at most {most}, or a larger --tile"
        )
    try:
        return Tiling(tile=tile, halo=halo, multiple=multiple)
    except ValidationError as error:
        raise ValueError(f"--tile {tile} --halo {halo}: {error.errors()[0]['msg']}") from None


def denoiser_graph(
    model: DeployDenoiser, multiple: int, opset: int, sample: Mapping[str, torch.Tensor] | None = None
) -> onnx.ModelProto:
    """``images`` uint8 (batch, height, width, 3) to ``denoised`` uint8 and ``restored`` float32 of the same shape.

    Height and width may be any multiples of ``multiple``.

    Args:
        sample: another input by its name, (2, ..., height, width, channels); height and width are neither one multiple
            nor equal, so that none is taken for a constant or for the other.
    """
    if sample is None:
        sample = {INPUT: torch.zeros(2, 2 * multiple, 3 * multiple, 3, dtype=torch.uint8)}
    rows, columns = (torch.export.Dim(name, min=1, max=_MAX_SIDE // multiple) for name in ("rows", "columns"))
    (axes,) = {tensor.ndim for tensor in sample.values()}
    dynamic = {axes - 3: multiple * rows, axes - 2: multiple * columns}
    return module_to_graph(model, sample, [DENOISED, RESTORED], opset, dynamic)


def sample_names(names: Sequence[str]) -> tuple[str, ...]:
    """A file name ``sample-*.png`` for each picture's name, all different."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:64] or "picture"
        numbered = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        found.append(next(file for stem in numbered if (file := f"sample-{stem}.png") not in found))
    return tuple(found)
