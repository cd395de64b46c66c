"""Video denoisers: clips of a fixed number of frames, and how strong their noise is, in one uint8 tensor."""

from pathlib import Path

import torch

from export.denoising import DenoisingJob
from export.noisy_pictures import noisy_clips
from skipvit.manifest import Tiling
from skipvit.transforms import Pixels


class VideoDenoisingJob(DenoisingJob):
    """A video denoiser; arguments and errors are those of `DenoisingJob`.

    Input ``clips`` is uint8 (batch, frames, height, width, 4): red, green, blue and the noise map, which holds the
    standard deviation of the noise in grey levels everywhere.
    """

    max_batch = 2
    _input, _channels = "clips", 4

    @property
    def _leading(self) -> tuple[int, ...]:
        # not ``self.model.frames``: to a type checker, every attribute of a module is a tensor or a module
        return (int(getattr(self.model, "frames")),)  # noqa: B009

    def _planned(self, tiling: Tiling) -> Tiling:
        lead, lag = (int(getattr(self.model, name, 0)) for name in ("lead", "lag"))
        return tiling.model_copy(update={"frames": self._leading[0], "lead": lead, "lag": lag})

    def example(self) -> torch.Tensor:
        return torch.zeros(1, *self._leading, 4, self._tiling.tile, self._tiling.tile)

    def write_samples(self, folder: Path) -> tuple[str, ...]:
        return ()  # a page offers pictures, and this model takes none

    def _batch(self, count: int, height: int, width: int, seed: int) -> Pixels:
        (frames,) = self._leading
        return noisy_clips(self._pictures, frames, count, height, width, seed)
