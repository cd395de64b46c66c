"""Values on a command line, read the same way by every program."""

import argparse
import json
from collections.abc import Callable
from typing import Any


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` up, for argparse's ``type``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"needs a whole number from {least} up, got {text!r}")
        return int(text)

    return read


def model_arg(text: str) -> tuple[str, Any]:
    """KEY=JSON, an argument of a model given by name."""
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"needs KEY=JSON such as num_classes=10, got {text!r}")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(
            f"{value[:80]!r} of {key} is not JSON; it needs null, a number, a list, or a word in double quotes"
        ) from None
