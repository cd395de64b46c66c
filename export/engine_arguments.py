"""Batches and shapes on the command line; nothing here needs more than Python."""

import argparse
import re
from typing import NamedTuple

Shape = tuple[int, ...]
Batches = tuple[int, int, int]


class Profile(NamedTuple):
    """One input's shapes. TensorRT picks what is fastest for ``usual``, and takes everything between the others."""

    smallest: Shape
    usual: Shape
    largest: Shape


def batches_arg(text: str) -> Batches:
    """MIN,USUAL,MAX for argparse's ``type``, or one number for all three."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[1-9][0-9]{0,5}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"needs MIN,USUAL,MAX such as 1,8,64, or one number, got {text!r}")
    smallest, usual, largest = map(int, parts if len(parts) == 3 else parts * 3)
    if not smallest <= usual <= largest:
        raise argparse.ArgumentTypeError(f"needs MIN <= USUAL <= MAX, got {text!r}")
    return smallest, usual, largest


def shape_arg(text: str) -> tuple[str, Profile]:
    """INPUT=MIN:USUAL:MAX for argparse's ``type``, each such as 1x224x224x3; or one shape for all three."""
    name, separator, written = text.partition("=")
    parts = written.split(":")
    plain = all(re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8})*", part) for part in parts)
    if not separator or not name or len(parts) not in (1, 3) or not plain:
        raise argparse.ArgumentTypeError(
            f"needs INPUT=MIN:USUAL:MAX such as images=1x8x8x3:4x8x8x3:8x8x8x3, got {text!r}"
        )
    shapes = [tuple(map(int, part.split("x"))) for part in (parts if len(parts) == 3 else parts * 3)]
    return name, Profile(*shapes)
