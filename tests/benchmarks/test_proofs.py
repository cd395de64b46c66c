"""Proofs: rows are kept, and a missed number fails the command."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import proof_table, proofs
from benchmarks.cli import main
from benchmarks.proofs import Row, Verdict
from benchmarks.rows import read_rows


class Lasting(ModuleType):
    """A proof that finds what it is told to."""

    PACKAGES = ("numpy",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--failures", type=int, required=True)

    def measure(self, arguments: argparse.Namespace) -> list[dict[str, object]]:
        return [{"failures": arguments.failures}]

    def verdicts(self, rows: Sequence[Row]) -> Iterable[Verdict]:
        for row in rows:
            yield Verdict("failed requests", "0", str(row["failures"]), row["failures"] == 0)


@pytest.mark.parametrize("failures", [0, 3])
def test_a_missed_number_fails_the_command_and_keeps_its_rows(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.lasting", Lasting("benchmarks.lasting"))
    monkeypatch.setitem(proofs.PROOFS, "lasting", ("benchmarks.lasting", "lasts"))
    assert main(["--out", str(tmp_path), "lasting", "--failures", str(failures)]) == (1 if failures else 0)
    said = capsys.readouterr().out
    assert f"{'MISSED' if failures else 'met   '}  failed requests: needed 0, found {failures}" in said
    assert read_rows("lasting", tmp_path)[0]["failures"] == str(failures)


def test_help_names_every_proof(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for command in proofs.PROOFS:
        assert command in said


def test_the_table_judges_a_file_as_its_run_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.lasting", Lasting("benchmarks.lasting"))
    monkeypatch.setattr(proof_table, "PROOFS", {"lasting": ("benchmarks.lasting", "lasts"), "other": ("none", "")})
    monkeypatch.setitem(proofs.PROOFS, "lasting", ("benchmarks.lasting", "lasts"))
    assert main(["--out", str(tmp_path), "lasting", "--failures", "0"]) == 0
    monkeypatch.setattr(proof_table, "read_rows", lambda what: read_rows(what, tmp_path))
    lines = proof_table.proofs_table().splitlines()
    assert lines[2].startswith("| lasting | failed requests | 0 | 0 | met |")
    assert lines[3] == "| other | not measured yet | | | | |"
