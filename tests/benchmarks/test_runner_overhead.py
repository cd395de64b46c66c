"""The runner's overhead is measured on the runner itself, and each row says that no GPU was there."""

import csv
from pathlib import Path

import pytest

from benchmarks import cli, runner_overhead


def test_rows_and_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_overhead, "_BATCHES_A_ROUND", 3)
    arguments = ["runner", "--batches", "1", "3", "--sides", "8", "--rounds", "2"]
    assert cli.main(["--out", str(tmp_path), *arguments]) == 0
    [file] = tmp_path.glob("runner_*.csv")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["batch"], row["side_px"], row["note"]) for row in rows] == [
        ("1", "8", "stubbed context, no GPU"),
        ("3", "8", "stubbed context, no GPU"),
    ]
    assert all(float(row["run_us"]) > float(row["copies_us"]) > 0 for row in rows)
