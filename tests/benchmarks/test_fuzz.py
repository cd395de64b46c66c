"""Fuzzing: a short run through every door finds nothing, the same seed makes the same inputs, and failures are kept."""

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks import fuzz, fuzz_target
from benchmarks.cli import main
from benchmarks.fuzz_doors import Request, doors
from benchmarks.fuzz_mutations import mutated_json
from benchmarks.rows import read_rows

FILES = {"config.pbtxt": [b'name: "x"']}


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "fuzz", "--inputs", "600", "--failures", str(tmp_path / "failures")])
    rows = read_rows("fuzz", tmp_path)
    assert {row["door"]: row["failures"] for row in rows if row["failures"] != "0"} == {}
    assert all(int(row["accepted"]) + int(row["refused"]) == int(row["inputs"]) > 0 for row in rows)
    assert len(rows) == len(doors(FILES)) + 3  # two more files, and all doors together
    assert list((tmp_path / "failures").iterdir()) == []


def test_inputs_follow_from_the_seed_alone() -> None:
    once, again = doors(FILES), list(reversed(doors(FILES)))
    made = {door.name: [door.make(Random(f"{door.name}/{case}")) for case in range(20)] for door in once}
    for door in again:
        for case in reversed(range(20)):
            assert door.make(Random(f"{door.name}/{case}")) == made[door.name][case]
        assert len({repr(one) for one in made[door.name]}) > 10


def test_values_put_into_documents_are_not_shared() -> None:
    raw = json.dumps({"a": [1, {"b": [2, 3]}], "c": {}}).encode()
    first = [mutated_json(raw, Random(case)) for case in range(300)]
    assert [mutated_json(raw, Random(case)) for case in range(300)] == first


@pytest.mark.parametrize("how", ["answer", "exception"])
def test_a_failure_is_kept_with_its_command(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask(_target: Any, request: Request) -> str:
        if how == "exception":
            raise RuntimeError(request.path)
        return "FAILED: 500"

    monkeypatch.setattr(fuzz_target.Target, "ask", ask)
    arguments = ["--out", str(tmp_path), "fuzz", "--failures", str(tmp_path), "--door", "OIP, binary", "--case", "7"]
    assert main(arguments) == 1
    assert "MISSED  crashes, 5xx and other failures: needed 0, found 1 of 1 inputs" in capsys.readouterr().out
    kept = json.loads((tmp_path / "OIP--binary-7.json").read_text())
    assert kept["command"] == "skipvit-bench fuzz --seed 0 --door 'OIP, binary' --case 7"
    assert kept["outcome"] == ("FAILED: 500" if how == "answer" else f"FAILED: RuntimeError: {kept['input']['path']}")
    [door] = [door for door in doors(FILES) if door.name == "OIP, binary"]
    made = door.make(Random("0/OIP, binary/7"))
    assert isinstance(made, Request)
    assert bytes.fromhex(kept["input"]["body"]) == made.body


def test_an_unknown_door_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "fuzz", "--failures", str(tmp_path), "--door", "window"]) == 1
    assert "there is no door 'window'; there are: 'classify, picture'" in capsys.readouterr().err


def test_a_hang_is_ended() -> None:
    with pytest.raises(TimeoutError, match="no answer within 1 s"), fuzz._bounded(1):
        time.sleep(60)


def test_memory_that_grows_and_slow_inputs_miss_their_numbers() -> None:
    row = {"door": "all doors", "inputs": 9, "failures": 0, "slowest_ms": 2000.0}
    growing = {**row, "rss_second_quarter_mb": 100.0, "rss_last_quarter_mb": 106.0}
    assert [verdict.met for verdict in fuzz.verdicts([growing])] == [True, False, False]
    steady = {**growing, "slowest_ms": 1000.0, "rss_last_quarter_mb": 104.0}
    assert all(verdict.met for verdict in fuzz.verdicts([steady]))
