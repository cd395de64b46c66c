"""How near an engine comes to ONNX Runtime, and what is near enough: figures, tolerances, and the verdict."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from export.measures import ParityError, psnr, rounded
from skipvit.manifest import Manifest, Parity, Precision

Outputs = dict[str, npt.NDArray[Any]]
# The largest difference over the largest value. Engines and ONNX Runtime add up in another order, bfloat16 keeps
# 8 bits, and TF32 11 as float16 does; what a quantised graph rounds may fall to either side.
RELATIVE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2, "int8": 5e-2, "fp8": 0.1}
MIN_PSNR: dict[Precision, float] = {"fp32": 80.0, "fp16": 60.0, "bf16": 45.0, "int8": 40.0, "fp8": 35.0}
MIN_TOP1: dict[Precision, float] = {"fp32": 1.0, "fp16": 1.0, "bf16": 0.98, "int8": 0.98, "fp8": 0.95}


class Runs(NamedTuple):
    """The same batches on both sides, and what there is to say of them.

    ``images`` counts what was compared, ``real`` says whether they are pictures that somebody took.
    """

    reference: Sequence[Outputs]
    found: Sequence[Outputs]
    engine: str
    images: int
    source: str
    real: bool


def compare(file: str, precision: Precision, manifest: Manifest | None, runs: Runs, tf32: bool = False) -> Parity:
    """Measures how far an engine is from its file.

    A classifier is judged by its logits and classes, a denoiser by PSNR, and any other graph by all of its outputs.

    Args:
        file: of the engine.
        tf32: float32 products were let round to TF32.

    Raises:
        ParityError: further than the precision allows.
    """
    exactness: Precision = "fp16" if precision == "fp32" and tf32 else precision
    names = _compared(manifest, runs.reference[0])
    for reference, found in zip(runs.reference, runs.found, strict=True):
        _check_outputs(file, names, reference, found)
    figures = _figures(names, runs)
    needed, holds = [], True
    if manifest is None or manifest.task == "classification":
        needed.append(f"relative <= {RELATIVE[exactness]:g}")
        holds = figures["max_relative"] <= RELATIVE[exactness]
    if manifest is not None and manifest.task == "classification":
        figures["top1_agreement"] = _top1(names[0], runs)
        if runs.real or exactness == "fp32":
            needed.append(f"top-1 agreement >= {MIN_TOP1[exactness]:.0%}")
            holds = holds and figures["top1_agreement"] >= MIN_TOP1[exactness]
    if manifest is not None and manifest.task != "classification":
        figures |= _restored(names[0], runs)
        needed.append(f"PSNR >= {MIN_PSNR[exactness]:g} dB")
        holds = figures["psnr_db"] >= MIN_PSNR[exactness]
    tolerance = ", ".join(needed)
    if not holds:
        said = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        raise ParityError(
            f"the engine strays from ONNX Runtime on {runs.source}: {said}; needed: {tolerance}. No engine was "
            "written. Try --no-plugins, another --precision or another TensorRT, and report it"
        )
    return Parity(
        file=file,
        precision=precision,
        engine=f"{runs.engine}, against ONNX Runtime on the CPU",
        images=runs.images,
        images_from=runs.source,
        tolerance=tolerance,
        **figures,
    )


def _compared(manifest: Manifest | None, outputs: Outputs) -> list[str]:
    if manifest is None:
        return list(outputs)
    floats = [output.name for output in manifest.outputs if output.dtype == "float32"]
    return floats[:1]


def _check_outputs(file: str, names: Sequence[str], reference: Outputs, found: Outputs) -> None:
    for name in names:
        if name not in found or found[name].shape != reference[name].shape:
            shape = found[name].shape if name in found else "nothing"
            raise ParityError(
                f"{file} gives {name} {shape}, ONNX Runtime {reference[name].shape}; no engine was written"
            )
        if not np.all(np.isfinite(reference[name].astype(np.float64))):
            raise ParityError(
                f"ONNX Runtime gives {name} with values that are not finite, with which nothing can be compared; try "
                "another --precision, or export the model again"
            )
        if not np.all(np.isfinite(found[name].astype(np.float64))):
            raise ParityError(
                f"{file} gives {name} with values that are not finite; no engine was written. Try --no-plugins, or "
                "another --precision"
            )


def _figures(names: Sequence[str], runs: Runs) -> dict[str, Any]:
    largest, means, relative = 0.0, [], 0.0
    for name in names:
        pairs = [
            (reference[name].astype(np.float64), found[name].astype(np.float64))
            for reference, found in zip(runs.reference, runs.found, strict=True)
        ]
        differences = [np.abs(found - reference) for reference, found in pairs]
        most = max(float(d.max()) for d in differences)
        scale = max(float(np.abs(reference).max()) for reference, _ in pairs)
        largest, relative = max(largest, most), max(relative, most / max(scale, 1e-12))
        means.append(float(np.concatenate([d.ravel() for d in differences]).mean()))
    return {"max_abs": largest, "mean_abs": max(means), "max_relative": relative}


def _top1(name: str, runs: Runs) -> float:
    agree = [r[name].argmax(axis=1) == f[name].argmax(axis=1) for r, f in zip(runs.reference, runs.found, strict=True)]
    return float(np.concatenate(agree).mean())


def _restored(name: str, runs: Runs) -> dict[str, Any]:
    pairs = [(r[name], f[name]) for r, f in zip(runs.reference, runs.found, strict=True)]
    return {
        "psnr_db": min(psnr(found, reference) for reference, found in pairs),
        "max_levels": max(int(np.abs(rounded(found) - rounded(reference)).max()) for reference, found in pairs),
    }
