"""Finds the TensorRT that is installed: full TensorRT or TensorRT-RTX, which differ in what they build and run on.

Nothing else in this repository imports either, so a program that offers TensorRT starts, and shows its help, without.
"""

import ctypes
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from skipvit.manifest import Flavor

_MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_EXTRAS: dict[Flavor, str] = {"tensorrt": "trt", "tensorrt-rtx": "trt-rtx"}
_LIBRARY = "libtensorrt_rtx.so"


class TensorrtMissing(Exception):
    """TensorRT is not installed, or one of its libraries does not load; the message says what to do."""


@dataclass(frozen=True)
class Tensorrt:
    """An imported TensorRT.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``, whose names are the same as far as both have them.
        version: such as ``11.4.0.106``.
    """

    module: Any
    flavor: Flavor
    version: str


def open_tensorrt(choice: Literal["auto"] | Flavor = "auto") -> Tensorrt:
    """Imports TensorRT; ``auto`` takes full TensorRT where it loads, else TensorRT-RTX. Loading needs no GPU.

    Raises:
        TensorrtMissing: what was asked for is not installed, or is broken.
    """
    flavors: tuple[Flavor, ...] = get_args(Flavor) if choice == "auto" else (choice,)
    reasons = []
    for flavor in flavors:
        try:
            return _opened(flavor)
        except TensorrtMissing as missing:
            reasons.append(str(missing))
    raise TensorrtMissing("\n".join(reasons))


def _opened(flavor: Flavor) -> Tensorrt:
    name = _MODULES[flavor]
    install = f"pip install 'skipvit[{_EXTRAS[flavor]}]'"
    if importlib.util.find_spec(name) is None:
        raise TensorrtMissing(f"{name} is not installed; run: {install}")
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # as a rule a shared library that the loader does not find
        raise TensorrtMissing(
            f"{name} is installed but does not load: {error}. "
            f"Put the folder of its libraries on LD_LIBRARY_PATH, or install it anew; run: {install}"
        ) from error
    libraries = importlib.util.find_spec(f"{name}_libs") if flavor == "tensorrt-rtx" else None
    if libraries is not None and libraries.origin is not None:
        _give_unversioned_name(Path(libraries.origin).parent)
    return Tensorrt(module, flavor, str(module.__version__))


def _give_unversioned_name(folder: Path) -> None:
    """Makes the link that the wheel of TensorRT-RTX 1.7 lacks.

    After it has created a plugin, the ONNX parser opens the library by its name without a version, and ends the process
    if it is not there.
    """
    alias = folder / _LIBRARY
    versioned = sorted(path.name for path in folder.glob(f"{_LIBRARY}.*"))
    if alias.exists() or not versioned:
        return
    try:
        alias.symlink_to(versioned[-1])
    except FileExistsError:  # another process was faster
        return
    except OSError as error:
        try:
            ctypes.CDLL(_LIBRARY)  # found elsewhere, as the parser will
        except OSError:
            raise TensorrtMissing(
                f"{folder} lacks the name {_LIBRARY}, without which plugins end the process, and it cannot be made: "
                f"{error.strerror}. Run once, as the folder's owner: ln -s {versioned[-1]} {alias}"
            ) from error
