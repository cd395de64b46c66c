"""The overload benchmark: its verdicts on made-up rows, and a short run of all of it."""

from pathlib import Path

import pytest

from benchmarks import overload
from benchmarks.cli import main
from benchmarks.proofs import Row
from benchmarks.rows import read_rows

ALONE: Row = {"phase": "alone", "p99_ms": 100.0}
BEFORE: Row = {"phase": "peak", "answered_per_s": 32.0}
GOOD: Row = {
    "phase": "overload",
    "server_errors": 0,
    "no_answer": 0,
    "p99_ms": 300.0,
    "rss_growth_percent": 5.0,
    "answered_per_s": 28.5,
}
AFTER: Row = {"phase": "peak", "answered_per_s": 28.0}
ROWS = (ALONE, BEFORE, GOOD, AFTER)


def test_what_meets_every_number_is_met() -> None:
    verdicts = list(overload.verdicts([*ROWS, *({**row, "model": "other"} for row in ROWS)]))
    assert [verdict.met for verdict in verdicts] == [True] * 10
    assert [verdict.what.rsplit(", ", 1)[1] for verdict in verdicts] == ["vit_small_patch16_224"] * 5 + ["other"] * 5


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({"server_errors": 1}, "server errors"),
        ({"no_answer": 1}, "no answer"),
        ({"p99_ms": 301.0}, "p99 of what was admitted"),
        ({"rss_growth_percent": 5.1}, "growth of resident memory"),
        ({"answered_per_s": 28.4}, "goodput of the mean"),
    ],
)
def test_each_number_is_missed_by_itself(found: dict[str, float], missed: str) -> None:
    verdicts = overload.verdicts([ALONE, BEFORE, {**GOOD, **found}, AFTER])
    [verdict] = [verdict for verdict in verdicts if not verdict.met]
    assert verdict.what.startswith(missed)


def test_goodput_is_compared_with_the_mean_of_both_peaks() -> None:
    *_, both = overload.verdicts(ROWS)
    assert (both.what, both.found) == (
        "goodput of the mean of the peaks before and after, vit_small_patch16_224",
        "95.0 %",
    )
    older = [{**BEFORE, "phase": "peak before"}, GOOD, {**AFTER, "phase": "peak after"}]
    *_, same = overload.verdicts([ALONE, *older])
    assert same == both


def test_of_several_rounds_the_median_of_goodput_is_judged_and_the_worst_of_the_rest() -> None:
    slow = {**GOOD, "answered_per_s": 20.0, "p99_ms": 400.0}
    broken = {**GOOD, "server_errors": 2, "rss_growth_percent": 7.0}
    errors, silent, p99, growth, goodput = overload.verdicts([*ROWS, slow, BEFORE, broken, AFTER])
    assert [verdict.met for verdict in (errors, silent, p99, growth, goodput)] == [False, True, False, False, True]
    assert (errors.found, p99.found, growth.found, goodput.found) == ("2", "4.00", "7.0 %", "95.0 %")
    assert "median of 3" in goodput.what


@pytest.mark.slow
def test_a_short_run_refuses_what_is_too_much_and_loses_nothing(tmp_path: Path) -> None:
    model = ["--models", "vit_micro_patch2_8", "--model-arg", "img_size=224", "--model-arg", "patch_size=16"]
    assert main(["--out", str(tmp_path), "overload", "--seconds", "2", "--measured", "1", "--rounds", "2", *model]) in (
        0,
        1,
    )
    rows = read_rows("overload", tmp_path)
    assert [row["phase"] for row in rows] == ["alone", "peak", "overload", "peak", "overload", "peak"]
    for row in rows:
        assert (row["server_errors"], row["no_answer"]) == ("0", "0")
        assert float(row["answered_per_s"]) > 0
        if row["phase"] == "overload":
            assert float(row["refused_per_s"]) > float(row["answered_per_s"])
            assert int(row["target_ms"]) > 0
        else:
            assert row["refused_per_s"] == "0.0"
