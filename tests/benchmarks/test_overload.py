"""The overload benchmark: its verdicts on made-up rows, and a short run of all of it."""

from pathlib import Path

import pytest

from benchmarks import overload
from benchmarks.cli import main
from benchmarks.rows import read_rows

ALONE = {"p99_ms": 100.0}
PEAK = {"answered_per_s": 30.0}
GOOD = {"server_errors": 0, "no_answer": 0, "p99_ms": 300.0, "rss_growth_percent": 5.0, "answered_per_s": 28.5}


def test_what_meets_every_number_is_met() -> None:
    verdicts = list(overload.verdicts([ALONE, PEAK, GOOD, ALONE, PEAK, {**GOOD, "model": "other"}]))
    assert [verdict.met for verdict in verdicts] == [True] * 10
    assert [verdict.what.rsplit(", ", 1)[1] for verdict in verdicts] == ["vit_small_patch16_224"] * 5 + ["other"] * 5


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({"server_errors": 1}, "server errors"),
        ({"no_answer": 1}, "no answer"),
        ({"p99_ms": 301.0}, "p99 of what was admitted"),
        ({"rss_growth_percent": 5.1}, "growth of resident memory"),
        ({"answered_per_s": 28.4}, "goodput of the peak"),
    ],
)
def test_each_number_is_missed_by_itself(found: dict[str, float], missed: str) -> None:
    verdicts = overload.verdicts([ALONE, PEAK, {**GOOD, **found}])
    [verdict] = [verdict for verdict in verdicts if not verdict.met]
    assert verdict.what.startswith(missed)


@pytest.mark.slow
def test_a_short_run_refuses_what_is_too_much_and_loses_nothing(tmp_path: Path) -> None:
    model = ["--models", "vit_micro_patch2_8", "--model-arg", "img_size=224", "--model-arg", "patch_size=16"]
    assert main(["--out", str(tmp_path), "overload", "--seconds", "2", "--measured", "1", *model]) in (0, 1)
    alone, peak, found = read_rows("overload", tmp_path)
    assert [row["phase"] for row in (alone, peak, found)] == ["alone", "peak", "overload"]
    assert (found["server_errors"], found["no_answer"]) == ("0", "0")
    assert float(found["refused_per_s"]) > float(found["answered_per_s"]) > 0
    assert int(found["target_ms"]) > 0
