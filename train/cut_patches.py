"""Cuts SIDD's whole pictures into patches, once, so that training need not decode 20 megapixels for each of them.

    python -m train.cut_patches /data/SIDD

Writes train/input/ and train/groundtruth/ into the same folder, where sidd:/data/SIDD looks first: 300 patches of
256 x 256 at random places of each of the 320 pictures, as Uformer was trained on, in about 20 GB.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from skipvit.arguments import whole
from skipvit.artifacts import ArtifactError
from skipvit.publishing import new_folder
from train.photographs import PictureFiles
from train.pictures import DataError
from train.sidd import whole_pictures

_PARTS = ("groundtruth", "input")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "cut_patches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with SIDD_Medium_Srgb/Data in it")
    parser.add_argument("--size", type=whole(8), default=256, help="side of a patch (default: 256)")
    parser.add_argument("--each", type=whole(1), default=300, help="patches of each picture (default: 300)")
    parser.add_argument("--seed", type=whole(0), default=0)
    args = parser.parse_args(argv)
    try:
        pictures = whole_pictures(args.folder)
        with new_folder(args.folder / "train", "folder") as out:
            for part in _PARTS:
                (out / part).mkdir()
            for index in tqdm(range(len(pictures.names)), unit="picture", disable=None):
                cut(pictures, index, out, args.size, args.each, args.seed)
    except (ArtifactError, DataError, OSError) as error:
        print(f"cut_patches: {error}", file=sys.stderr)
        return 1
    return 0


def cut(pictures: PictureFiles, index: int, out: Path, size: int, count: int, seed: int) -> None:
    """Writes ``count`` patches of one pair; where they lie follows from the seed and the picture's number."""
    pair, rng = pictures.open(index), np.random.default_rng([seed, index])
    height, width = pair.clean.shape[:2]
    if min(height, width) < size:
        raise DataError(f"{pictures.clean[index]} is {width} x {height}, smaller than patches of {size}; lower --size")
    for number in range(count):
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        for part, pixels in zip(_PARTS, pair, strict=True):
            assert pixels is not None, "SIDD comes in pairs"
            patch = pixels[top : top + size, left : left + size]
            name = f"{pictures.names[index].replace('_GT_SRGB', '')}_{number:03d}.png"
            Image.fromarray(patch).save(out / part / name)


if __name__ == "__main__":
    sys.exit(main())
