"""How near an exported denoiser comes to its model, in dB: the counterpart of export/parity.py for pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from export.job import Precision
from export.measures import Floats, ParityError, open_session, psnr, rounded
from skipvit.manifest import Parity
from skipvit.transforms import Pixels

DENOISED, RESTORED = "denoised", "restored"
# dB at a peak of 255. 60 are an error of a quarter of a grey level; float32 comes far nearer, or is not the model.
MIN_PSNR: dict[Precision, float] = {"fp32": 80.0, "fp16": 60.0}


def onnx_restored(path: Path, batches: Sequence[Pixels]) -> list[tuple[Pixels, Floats]]:
    """``denoised`` and ``restored`` of the exported file for each batch; sizes may differ between batches."""
    session: Any = open_session(path)
    name = session.get_inputs()[0].name
    return [tuple(session.run([DENOISED, RESTORED], {name: batch})) for batch in batches]


def compare_restored(
    reference: Sequence[Floats], path: Path, precision: Precision, batches: Sequence[Pixels], source: str
) -> Parity:
    """Runs the file on ``batches`` and measures how far its output is from ``reference``, (..., 3) in 0..255.

    Raises:
        ParityError: in one batch at least it is further than ``precision`` allows.
    """
    found = onnx_restored(path, batches)
    for (_, restored), expected in zip(found, reference, strict=True):
        if restored.shape != expected.shape or not np.all(np.isfinite(restored)):
            raise ParityError(
                f"{path.name} gives pictures {restored.shape}, {np.count_nonzero(~np.isfinite(restored))} values not "
                f"finite, and the model gives {expected.shape}; nothing was written. Export in fp32, or check the "
                "model's weights"
            )
    differences = [np.abs(restored - expected) for (_, restored), expected in zip(found, reference, strict=True)]
    worst = min(psnr(restored, expected) for (_, restored), expected in zip(found, reference, strict=True))
    levels = [
        int(np.abs(denoised.astype(np.int16) - rounded(expected)).max())
        for (denoised, _), expected in zip(found, reference, strict=True)
    ]
    parity = Parity(
        file=path.name,
        precision=precision,
        engine=f"onnxruntime {onnxruntime.__version__} CPU",
        images=sum(len(batch) for batch in batches),
        images_from=source,
        max_abs=max(float(d.max()) for d in differences),
        mean_abs=float(np.mean(np.concatenate([d.ravel() for d in differences]))),
        max_relative=max(float(d.max()) for d in differences) / max(float(np.abs(r).max()) for r in reference),
        psnr_db=worst,
        max_levels=max(levels),
        tolerance=f"PSNR >= {MIN_PSNR[precision]:g} dB",
    )
    if worst < MIN_PSNR[precision]:
        raise ParityError(
            f"{path.name} strays from the PyTorch model: PSNR {worst:.1f} dB, max abs {parity.max_abs:.2e} of 255 on "
            f"{parity.images} pictures; needed: {parity.tolerance}. Nothing was written. Try fp32, or report the model"
        )
    return parity


def torch_restored(model: torch.nn.Module, batches: Sequence[Pixels]) -> list[Floats]:
    """The model as trained, in float32: (..., H, W, c) uint8 to (..., H, W, 3) in 0..255, before rounding."""
    with torch.inference_mode():
        images = (torch.from_numpy(batch).movedim(-1, -3).float() / 255 for batch in batches)
        return [(model(x) * 255).movedim(-3, -1).numpy() for x in images]
