"""The one place that imports timm.

timm imports torchvision, and torchvision's CUDA build, which a bare ``pip install torchvision`` brings, fails to
import beside a CPU build of torch: its compiled operators cannot be loaded, and its Python side then registers shape
rules for two operators that do not exist. Declaring those two operators first lets the import go through; nothing here
calls them, and pictures are decoded by Pillow.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MISSING_OPS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@contextmanager
def _without_collection() -> Iterator[None]:
    """Modules stay; searching what they are made of for garbage, again and again, is a tenth of the time of loading."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "timm needs torchvision, which is not installed; run: pip install 'skipvit[model]'"
        ) from None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for op in _MISSING_OPS:
            torch.library.define(f"torchvision::{op}", _SCHEMA)
        importlib.import_module("torchvision")


with _without_collection():
    _import_torchvision()
    timm: Any = importlib.import_module("timm")
