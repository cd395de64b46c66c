"""A run that is killed and resumed ends where the run ends that was not: bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.no_room import no_room
from train.distributed import Process
from train.loop import fit
from train.recipe import read_recipe
from train.resume import ResumeError, latest_step, save_state
from train.task import open_task
from train.training import Training

ROOT = Path(__file__).resolve().parents[2]
ALONE = Process(0, 1, torch.device("cpu"))


def program(name: str, *arguments: object, launcher: tuple[str, ...] = ()) -> str:
    """Runs a program of this folder with one thread, and returns what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, str(Path(__file__).with_name(name)), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


def test_killed_and_stopped_runs_end_bit_for_bit_the_same(tiny: Path, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(2))
    text = tiny.read_text().replace("save_every = 4", "save_every = 2").replace("steps = 12", "steps = 30")
    tiny.write_text(text)
    printed = program("killed_runs.py", tiny, tmp_path, seed)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for name in ("killed", "stopped"):
        resumed = load_file(tmp_path / name / "model.safetensors")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), f"{name}, seed {seed}\n{printed}"
        assert metrics(tmp_path / "whole") == metrics(tmp_path / name)
        assert [path.name for path in (tmp_path / name / "state").iterdir()] == ["step-00000030"]


def fitted(recipe: Path, out: Path, *overrides: str, resuming: bool = False) -> dict[str, torch.Tensor]:
    read = read_recipe(recipe, overrides)
    out.mkdir(exist_ok=True)
    return fit(Training.of(read, open_task(read, ALONE), ALONE), out, resuming).weights


def test_resuming_a_finished_run_gives_its_weights_again(tiny: Path, tmp_path: Path) -> None:
    first = fitted(tiny, tmp_path / "run")
    again = fitted(tiny, tmp_path / "run", resuming=True)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("damage", ["truncated", "missing", "other model", "other step"])
def test_unusable_state_is_named(tiny: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    fitted(tiny, run, "run.steps=2")
    folder = run / "state" / "step-00000002"
    [file] = folder.iterdir()
    if damage == "truncated":
        os.truncate(file, file.stat().st_size - 8)
    elif damage == "missing":
        file.unlink()
    elif damage == "other step":
        folder = folder.rename(run / "state" / "step-00000007")
    changes = ["model.args.embed_dim=32"] if damage == "other model" else []
    with pytest.raises(ResumeError, match=rf"{folder.name} .*; remove .*run to start again"):
        fitted(tiny, run, *changes, resuming=True)


def test_leftovers_of_a_kill_are_no_state_and_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "state" / ".writing").mkdir(parents=True)
    (tmp_path / "state" / ".writing" / "half.safetensors").write_bytes(b"x")
    (tmp_path / "state" / "step-00000003").mkdir()
    assert latest_step(tmp_path) == 3
    assert latest_step(tmp_path / "elsewhere") is None
    save_state(tmp_path, 5, {"a": torch.ones(2)}, ALONE)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000005"]


def test_a_state_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    state = {"w": torch.zeros(100_000)}
    save_state(tmp_path, 1, state, ALONE)
    with no_room(), pytest.raises(ResumeError, match=r"step-00000002 cannot be written \(.*; make room there"):
        save_state(tmp_path, 2, state, ALONE)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000001"]
    save_state(tmp_path, 2, state, ALONE)
    assert latest_step(tmp_path) == 2


def test_state_holds_no_pickle(tiny: Path, tmp_path: Path) -> None:
    fitted(tiny, tmp_path / "run", "run.steps=1")
    [file] = (tmp_path / "run" / "state" / "step-00000001").iterdir()
    found = load_file(file)
    assert found["step"].tolist() == [1]
    assert {name.split(".")[0] for name in found} == {"model", "ema", "optim", "step"}
