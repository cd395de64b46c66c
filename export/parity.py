"""Is the exported file the model it was made from? The comparison that every classifier's export has to pass.

Both sides get the same uint8 pictures: PyTorch runs the model as it was trained, float32, with none of the export's
rewrites; ONNX Runtime runs the file on the CPU, the first picture alone and the rest in batches.
"""

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from export.deploy import Normalise
from export.graph import LOGITS
from export.job import Precision
from export.measures import INT8_MIN_AGREEMENT, Floats, ParityError, open_session
from export.pictures import Pictures
from skipvit.manifest import Parity
from skipvit.transforms import Pixels, Preprocessing

_BATCH = 16
# Absolute: largest difference of a logit. Relative: the same over the largest logit, without which a model whose
# logits are small would pass whatever it gives.
_FP32_MAX_ABS = 1e-4
_FP32_MAX_RELATIVE = 1e-4
_FP16_MAX_RELATIVE = 5e-3


def torch_logits(model: nn.Module, preprocessing: Preprocessing, images: Pixels) -> Floats:
    """Logits (B, num_classes) of the model as trained, in float32."""
    normalise = Normalise(preprocessing)
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            x = torch.from_numpy(images[start : start + _BATCH].copy()).permute(0, 3, 1, 2).float()
            batches.append(model(normalise(x)).float().numpy())
    return np.concatenate(batches)


def onnx_logits(path: Path, images: Pixels) -> Floats:
    """Logits (B, num_classes) of the exported file."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    starts = [0, *range(1, len(images), _BATCH), len(images)]
    batches = [images[a:b] for a, b in itertools.pairwise(starts) if b > a]
    return np.concatenate([session.run([LOGITS], {name: batch})[0] for batch in batches])


def compare(
    reference: Floats,
    path: Path,
    precision: Precision,
    pictures: Pictures,
    min_agreement: float = INT8_MIN_AGREEMENT,
) -> Parity:
    """Runs the file and measures how far its logits are from ``reference``.

    Args:
        min_agreement: the share of pictures, 0..1, whose class has to be the same in int8; other precisions have
            limits of their own.

    Raises:
        ParityError: they are further apart than ``precision`` allows.
    """
    found = onnx_logits(path, pictures.images)
    if found.shape != reference.shape or not np.all(np.isfinite(found)):
        raise ParityError(
            f"{path.name} gives logits {found.shape}, {np.count_nonzero(~np.isfinite(found))} of them not finite, and "
            f"the model gives {reference.shape}; nothing was written. Export in fp32, or check the model's weights"
        )
    difference = np.abs(found.astype(np.float64) - reference)
    parity = Parity(
        file=path.name,
        precision=precision,
        engine=f"onnxruntime {onnxruntime.__version__} CPU",
        images=len(pictures.images),
        images_from=pictures.source,
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        max_relative=float(difference.max() / max(float(np.abs(reference).max()), 1e-12)),
        top1_agreement=float(np.mean(found.argmax(axis=1) == reference.argmax(axis=1))),
        tolerance=_tolerance(precision, pictures.real, min_agreement),
    )
    if not _holds(parity, pictures.real, min_agreement):
        raise ParityError(
            f"{path.name} strays from the PyTorch model: max abs {parity.max_abs:.2e}, "
            f"relative {parity.max_relative:.2e}, top-1 agreement {parity.top1_agreement:.2%} on {parity.images} "
            f"pictures; needed: {parity.tolerance}. Nothing was written. {_advice(precision)}"
        )
    return parity


def _tolerance(precision: Precision, real: bool, min_agreement: float) -> str:
    if precision == "int8":
        return f"top-1 agreement >= {100 * min_agreement:g} %"
    if precision == "fp32":
        return f"max abs <= {_FP32_MAX_ABS:g}, relative <= {_FP32_MAX_RELATIVE:g}, top-1 agreement 100 %"
    return f"relative <= {_FP16_MAX_RELATIVE:g}" + (", top-1 agreement 100 %" if real else "")


def _holds(parity: Parity, real: bool, min_agreement: float) -> bool:
    agreement = parity.top1_agreement or 0.0
    if parity.precision == "int8":
        return agreement >= min_agreement
    if parity.precision == "fp32":
        close = parity.max_abs <= _FP32_MAX_ABS and parity.max_relative <= _FP32_MAX_RELATIVE
        return close and agreement == 1.0
    return parity.max_relative <= _FP16_MAX_RELATIVE and (agreement == 1.0 or not real)


def _advice(precision: Precision) -> str:
    if precision == "int8":
        return (
            "Calibrate on more pictures, and on such as the model will see (--calibration), allow less "
            "(--min-agreement), or export in fp32 or fp16"
        )
    return "Try fp32, or report the model"
