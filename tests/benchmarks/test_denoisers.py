"""The denoisers' benchmark compares like with like; no figure is judged here."""

import numpy as np
import pytest

from benchmarks import denoisers
from benchmarks.families import EAGER, OURS
from benchmarks.timing import Candidate


def test_rows_of_the_smallest_models() -> None:
    rows = {(row["model"], row["form"]): row for row in denoisers.measure("micro", 64, 2, 1)}
    names = ("uformer_micro", "skipat_uformer_micro")
    assert set(rows) == {(name, form) for name in names for form in (EAGER, OURS)}
    for (name, form), row in rows.items():
        assert row["cpu_ms_per_image"] > 0
        assert row["images_per_s_per_core"] == pytest.approx(1e3 / row["cpu_ms_per_image"], rel=1e-2)
        assert (row["speedup_over_pytorch"] == 1.0) == (form == EAGER)
        assert (row["speedup_over_uformer_same_form"] == 1.0) == (name == "uformer_micro")
        assert float(row["max_drift_levels"]) < 0.05
    assert rows["skipat_uformer_micro", OURS]["gmacs"] < rows["uformer_micro", OURS]["gmacs"]


def test_another_model_is_not_timed() -> None:
    pictures = np.full((1, 8, 8, 3), 100, np.uint8)
    eager = Candidate(denoisers._images, lambda images: images)
    other = Candidate(lambda images: images, lambda images: images + 1)
    with pytest.raises(RuntimeError, match=r"0\.50 grey levels from PyTorch"):
        denoisers._drift("uformer", {("uformer", EAGER): eager, ("uformer", OURS): other}, pictures)
