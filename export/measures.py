"""What comparisons are made with, without torch: a machine that builds engines need not have it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float32]
INT8_MIN_AGREEMENT = 0.99  # of classes with float32's, unless the user asks for another
_MOST_PSNR = 200.0  # what equal outputs count as


class ParityError(Exception):
    """An exported file strays from its model, or an engine from its file; the message gives the figures."""


def open_session(model: Path | bytes) -> Any:
    """An ONNX Runtime session of a graph, a file or its bytes, on the CPU."""
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its notes on constants it could not fold say nothing of the result
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def psnr(found: Floats, expected: Floats) -> float:
    """Peak signal-to-noise ratio in dB with a peak of 255, at most 200."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return _MOST_PSNR if error == 0 else min(_MOST_PSNR, 10 * math.log10(255.0**2 / error))


def rounded(restored: Floats) -> Floats:
    """A denoiser's ``restored`` as it is shown: whole grey levels 0..255."""
    return np.clip(np.rint(restored), 0, 255)
