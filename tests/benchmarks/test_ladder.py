"""The ladder's proof: what a run comes to, judged from made-up samples, and a short run of a real server."""

import random
from pathlib import Path

import pytest

from benchmarks import ladder_chart
from benchmarks.cli import main
from benchmarks.ladder import Sample, Schedule, rows_of, verdicts
from benchmarks.rows import read_rows
from tests.serve.servers import write_model

SCHEDULE = Schedule(((10.0, 5.0), (10.0, 50.0), (10.0, 5.0)))
VARIANTS = ["exact", "fast"]


def samples(held_s: float, back_at: float, status: str = "200") -> list[Sample]:
    """Ten requests a second: exact, then fast from 10 s on until ``back_at``; slow for 3 s, then ``held_s``."""
    found = []
    for number in range(300):
        sent = number / 10
        latency = 0.9 if 10 <= sent < 13 else held_s if 13 <= sent < 20 else 0.02
        found.append(Sample(sent, latency, "200", "fast" if 10 <= sent < back_at else "exact"))
    last = "fast" if back_at > 30 else "exact"
    return [*found, Sample(29.95, 0.01, status, last if status == "200" else "")]


@pytest.mark.parametrize(
    ("held_s", "back_at", "status", "met"),
    [
        (0.2, 26.0, "200", [True, True, True]),
        (0.4, 26.0, "200", [False, True, True]),
        (0.2, 31.0, "200", [True, False, True]),
        (0.2, 26.0, "429", [True, True, False]),
        (0.2, 5.0, "200", [True, True, True]),
    ],
)
def test_each_number_is_judged(held_s: float, back_at: float, status: str, met: list[bool]) -> None:
    rows = rows_of(samples(held_s, back_at, status), SCHEDULE, VARIANTS, 10.0, 300.0, 0.001)
    assert [verdict.met for verdict in verdicts(rows)] == met


def test_rows_are_half_seconds_with_their_variants() -> None:
    rows = rows_of(samples(0.2, 26.0), SCHEDULE, VARIANTS, 10.0, 300.0, 0.001)
    assert len(rows) == 60
    assert [row["phase"] for row in rows] == ["rest"] * 20 + ["step"] * 20 + ["rest"] * 20
    assert (rows[0]["exact"], rows[0]["fast"], rows[30]["exact"], rows[30]["fast"]) == (5, 0, 0, 5)
    assert (rows[22]["p99_ms"], rows[30]["p99_ms"]) == (900.0, 200.0)
    assert (rows[0]["held_p99_ms"], rows[0]["back_s"], rows[0]["exact_before_percent"]) == (200.0, 6.0, 100.0)


def test_arrivals_follow_the_phases() -> None:
    arrivals = list(SCHEDULE.arrivals(random.Random(0)))
    assert arrivals == sorted(arrivals)
    counts = [sum(begin <= time < begin + 10 for time in arrivals) for begin in (0, 10, 20)]
    assert counts[1] > 5 * max(counts[0], counts[2]) > 0


def test_the_picture_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    rows = rows_of(samples(0.2, 26.0), SCHEDULE, VARIANTS, 10.0, 300.0, 0.001)
    first = [path.read_bytes() for path in ladder_chart.draw(rows, tmp_path / "a.csv")]
    assert [path.read_bytes() for path in ladder_chart.draw(rows, tmp_path / "b.csv")] == first


def test_a_short_run_writes_rows_and_a_picture(tmp_path: Path) -> None:
    for name in ("exact", "fast"):
        write_model(tmp_path / "models", name)
    models = ["--models", str(tmp_path / "models"), "--variants", "exact", "fast"]
    times = ["--seconds", "1", "--rest-seconds", "1", "--exact-per-s", "10"]
    main(["--out", str(tmp_path), "ladder", *models, *times])  # whether it meets its numbers is the machine's matter
    rows = read_rows("ladder", tmp_path)
    assert [row["phase"] for row in rows] == ["rest", "rest", "step", "step", "rest", "rest"]
    assert sum(int(row["exact"]) + int(row["fast"]) for row in rows) > 0
    assert len(list(tmp_path.glob("ladder_*.png"))) == len(list(tmp_path.glob("ladder_*.svg"))) == 1
