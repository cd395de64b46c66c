"""Is the engine the file? The figures, against plain arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.engine_parity import MIN_PSNR, RELATIVE, Runs, compare
from export.measures import ParityError
from skipvit.artifacts import read_entry
from skipvit.manifest import Manifest, Precision
from tests.export.tiny_entry import write_entry


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    write_entry(tmp_path / "for-manifest")
    return read_entry(tmp_path / "for-manifest", "tiny").manifest


def logits_runs(difference: float, real: bool = True) -> Runs:
    """Two batches of logits of at most 10, one of which is off."""
    rng = np.random.default_rng(0)
    reference = [{"logits": np.round(rng.uniform(-9, 9, (n, 4)), 1).astype(np.float32)} for n in (1, 5)]
    reference[0]["logits"][0, 0] = 10.0
    found = [{"logits": outputs["logits"].copy()} for outputs in reference]
    found[1]["logits"][2, 3] += difference
    return Runs(reference, found, "a GPU", 6, "pictures", real)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_logits_are_judged_by_their_largest(precision: Precision, manifest: Manifest) -> None:
    near, far = 0.9 * RELATIVE[precision] * 10, 1.1 * RELATIVE[precision] * 10
    parity = compare("x.plan", precision, manifest, logits_runs(near, real=False), tf32=False)
    assert parity.max_abs == pytest.approx(near, rel=1e-2)
    assert parity.max_relative == pytest.approx(near / 10, rel=1e-2)
    assert parity.mean_abs == pytest.approx(near / 24, rel=1e-2)
    assert (parity.images, parity.engine) == (6, "a GPU, against ONNX Runtime on the CPU")
    with pytest.raises(ParityError, match="the engine strays from ONNX Runtime on pictures: max_abs"):
        compare("x.plan", precision, manifest, logits_runs(far, real=False), tf32=False)


def test_tf32_loosens_float32_alone(manifest: Manifest) -> None:
    difference = 0.5 * RELATIVE["fp16"] * 10
    with pytest.raises(ParityError):
        compare("x.plan", "fp32", manifest, logits_runs(difference))
    assert compare("x.plan", "fp32", manifest, logits_runs(difference), tf32=True).tolerance.startswith(
        "relative <= 0.005"
    )


def test_a_class_that_changes_is_a_miss_on_real_pictures(manifest: Manifest) -> None:
    runs = [Runs([{"logits": np.array([[1.0, 1.001]])}], [{"logits": np.array([[1.0005, 1.0]])}], "", 1, "", real)
            for real in (False, True)]  # fmt: skip
    assert compare("x.plan", "fp16", manifest, runs[0]).top1_agreement == 0
    with pytest.raises(ParityError, match=r"needed: relative <= 0\.005, top-1 agreement >= 100%"):
        compare("x.plan", "fp16", manifest, runs[1])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pictures_are_judged_in_decibels(precision: Precision, manifest: Manifest) -> None:
    denoiser = manifest.model_copy(update={"task": "denoising"})
    expected = np.full((1, 4, 4, 3), 100.0, np.float32)
    for decibels, passes in ((MIN_PSNR[precision] + 1, True), (MIN_PSNR[precision] - 1, False)):
        off = 255 * 10 ** (-decibels / 20)
        runs = Runs([{"logits": expected}], [{"logits": expected + np.float32(off)}], "", 1, "", real=True)
        if passes:
            parity = compare("x.plan", precision, denoiser, runs)
            assert parity.psnr_db == pytest.approx(decibels, abs=0.3)
            assert (parity.max_levels, parity.top1_agreement) == (0, None)
        else:
            with pytest.raises(ParityError, match="PSNR >="):
                compare("x.plan", precision, denoiser, runs)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.full((1, 4), np.nan), "values that are not finite"),
        (np.zeros((2, 4)), r"gives logits \(2, 4\), ONNX Runtime \(1, 4\)"),
        (None, "gives logits nothing"),
        (np.zeros((1, 4)), "ONNX Runtime gives logits with values that are not finite"),
    ],
)
def test_what_is_no_answer_is_a_miss(found: Any, message: str, manifest: Manifest) -> None:
    outputs = {} if found is None else {"logits": found}
    reference = np.full((1, 4), np.inf) if message.startswith("ONNX Runtime") else np.zeros((1, 4))
    with pytest.raises(ParityError, match=message):
        compare("x.plan", "fp16", manifest, Runs([{"logits": reference}], [outputs], "", 1, "", real=True))


def test_of_any_other_graph_every_output_counts() -> None:
    reference = {"a": np.array([1.0, 2.0]), "b": np.array([1000.0])}
    runs = Runs([reference], [{**reference, "a": np.array([1.0, 2.1])}], "", 1, "", real=False)
    with pytest.raises(ParityError, match=r"max_relative 0\.05"):
        compare("x.plan", "fp16", None, runs)
