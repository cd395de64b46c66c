"""The Smartphone Image Denoising Dataset (Abdelhamed et al., CVPR 2018), as it is distributed or cut into patches.

    train/input/*.png  train/groundtruth/*.png                              patches, as train/cut_patches.py makes them
    train/input_crops/*.png  train/gt_crops/*.png                           or as NAFNet and others name them
    SIDD_Medium_Srgb/Data/<instance>/<number>_{NOISY,GT}_SRGB_<nnn>.PNG     or whole pictures of 15 to 20 megapixels

    ValidationNoisyBlocksSrgb.mat  ValidationGtBlocksSrgb.mat               1280 blocks of 256 x 256, held out
    val/input/*.png  val/groundtruth/*.png                                  or these

"SIDD" figures of Uformer and others are of the validation blocks, not of the benchmark's server.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipvit.transforms import Pixels
from train.paired_folder import is_paired, pairs_in
from train.photographs import NoisyData, Pair, Photographs, PictureFiles
from train.pictures import DataError

_NOISY_BLOCKS, _CLEAN_BLOCKS = "ValidationNoisyBlocksSrgb.mat", "ValidationGtBlocksSrgb.mat"
_MAX_FILE, _MAX_BLOCKS = 512 << 20, 512 << 20  # bytes; SIDD's own are 252 MB when decompressed


@dataclass(frozen=True)
class Blocks:
    """Pairs of blocks (n, H, W, 3) uint8, SIDD's of scenes with 32 blocks each."""

    clean: Pixels
    noisy: Pixels
    per_scene: int

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{i // self.per_scene:04d}_{i % self.per_scene:02d}" for i in range(len(self.clean)))

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        return np.ones(len(self.clean))

    def open(self, index: int) -> Pair:
        return Pair(self.clean[index], self.noisy[index])


def sidd(root: str) -> NoisyData:
    """Opens SIDD in any of the layouts above.

    Raises:
        DataError: it is laid out otherwise, or a file of it is damaged.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"sidd:{root}: there is no such folder")
    train = pairs_in(base / "train") if is_paired(base / "train") else whole_pictures(base)
    held_out: Photographs
    if (base / _NOISY_BLOCKS).is_file() and (base / _CLEAN_BLOCKS).is_file():
        held_out = read_blocks(base)
        name = f"SIDD validation, {len(held_out.clean)} blocks"
    elif is_paired(base / "val"):
        held_out = pairs_in(base / "val")
        name = f"{len(held_out.clean)} pairs of {base / 'val'}"
    else:
        raise DataError(f"{base} has neither {_NOISY_BLOCKS} and {_CLEAN_BLOCKS} nor val/input/ and val/groundtruth/")
    return NoisyData(f"sidd:{root}", train, held_out, name, paired=True)


def whole_pictures(base: Path) -> PictureFiles:
    """The pairs of SIDD-Medium sRGB.

    Raises:
        DataError: there are none, or one has no partner.
    """
    folder = next((base / p for p in ("SIDD_Medium_Srgb/Data", "Data") if (base / p).is_dir()), None)
    if folder is None:
        raise DataError(f"{base} has neither train/input/ and train/groundtruth/ nor SIDD_Medium_Srgb/Data/ in it")
    clean = tuple(sorted(path for path in folder.glob("*/*_GT_SRGB_*") if path.suffix.lower() == ".png"))
    noisy = tuple(path.with_name(path.name.replace("_GT_SRGB_", "_NOISY_SRGB_")) for path in clean)
    if not clean:
        raise DataError(f"{folder} holds no <instance>/*_GT_SRGB_*.PNG; unpack SIDD_Medium_Srgb.zip there")
    if missing := [path for path in noisy if not path.is_file()]:
        raise DataError(f"{missing[0]} is not there, but the clean picture beside it is; unpack the archive again")
    return PictureFiles(clean, noisy)


def read_blocks(base: Path) -> Blocks:
    """The validation blocks (scenes, blocks, H, W, 3) of MATLAB's files, of which no more than their shape is trusted.

    Raises:
        DataError: a file is damaged, or holds something else.
    """
    noisy, clean = (_array(base / name) for name in (_NOISY_BLOCKS, _CLEAN_BLOCKS))
    if noisy.shape != clean.shape:
        raise DataError(f"{base / _NOISY_BLOCKS} is {noisy.shape} and {_CLEAN_BLOCKS} {clean.shape}; they must agree")
    flat = (-1, *clean.shape[2:])  # (scenes, blocks, H, W, 3) -> (scenes * blocks, H, W, 3)
    return Blocks(clean.reshape(flat), noisy.reshape(flat), clean.shape[1])


def _array(path: Path) -> Pixels:
    from scipy.io import loadmat, whosmat

    key = path.stem
    try:
        if path.stat().st_size > _MAX_FILE:
            raise DataError(f"{path} has more than {_MAX_FILE >> 20} MiB; fetch it again")
        held = {name: (shape, kind) for name, shape, kind in whosmat(path)}  # reads headers, decompresses no array
        shape, kind = held.get(key, ((), "nothing"))
        blocks = len(shape) == 5 and shape[-1] == 3 and kind == "uint8" and min(shape[2:4]) >= 8
        if not blocks or not 0 < np.prod(shape, dtype=np.float64) <= _MAX_BLOCKS:
            raise DataError(
                f"{path} holds {kind} {tuple(shape)} as {key}; it needs uint8 (scenes, blocks, height, width, 3)"
            )
        array = loadmat(path, variable_names=[key])[key]
    except DataError:
        raise
    except Exception as error:  # whatever scipy makes of damaged files
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None
    return np.ascontiguousarray(array)
