"""Two processes over gloo train what one does, and their states are read by any number of processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skipvit.transforms import Preprocessing
from train import resume
from train.digits import Glyphs, digits
from train.distributed import Process, StrategyError, distribute, processes
from train.loop import fit
from train.predict import predict
from train.recipe import RecipeError, read_recipe
from train.task import open_task
from train.training import Training

ROOT = Path(__file__).resolve().parents[2]
ALONE = Process(0, 1, torch.device("cpu"))
# Drop path draws per process, so runs of one and two processes can only be compared without it. With its usual eps
# AdamW moves weights whose gradient is but rounding noise, such as the keys' bias, as far as any other.
CALM = {"drop_path_rate = 0.2": "drop_path_rate = 0.0", "lr = 2e-3": "lr = 2e-3\neps = 1e-5"}


@pytest.fixture(scope="module")
def calm_guided(guided: list[str]) -> list[str]:
    return [override.replace("drop_path_rate=0.2", "drop_path_rate=0.0") for override in guided]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, calm_guided: list[str]) -> Path:
    """The folder that two_processes.py filled."""
    out = tmp_path_factory.mktemp("pair")
    for old, new in CALM.items():
        tiny_text = tiny_text.replace(old, new)
    (out / "tiny.toml").write_text(tiny_text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("two_processes.py")), str(out / "tiny.toml"), str(out), *calm_guided]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def single(pair: Path) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    (pair / "single").mkdir()
    recipe = read_recipe(pair / "tiny.toml")
    return fit(Training.of(recipe, open_task(recipe, ALONE), ALONE), pair / "single", resuming=False).weights


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("name", ["ddp1", "ddp2", "fsdp1", "fsdp2", "fsdp-then-ddp"])
def test_two_processes_train_what_one_does(pair: Path, single: dict[str, torch.Tensor], name: str) -> None:
    assert far(load_file(pair / f"{name}.safetensors"), single) < 1e-5


@pytest.mark.parametrize("name", ["half-ddp", "other-half"])
def test_one_process_goes_on_from_twos_state(pair: Path, single: dict[str, torch.Tensor], name: str) -> None:
    recipe = read_recipe(pair / "tiny.toml")
    resumed = fit(Training.of(recipe, open_task(recipe, ALONE), ALONE), pair / name, resuming=True)
    assert resumed.step == 12
    assert far(resumed.weights, single) < 1e-5


@pytest.mark.parametrize("name", ["guided-ddp", "guided-fsdp", "guided-ddp-7", "guided-fsdp-7"])
def test_two_processes_drop_the_guide_as_one_does(
    pair: Path, calm_guided: list[str], tmp_path: Path, name: str
) -> None:
    recipe = read_recipe(pair / "tiny.toml", calm_guided)
    alone = fit(Training.of(recipe, open_task(recipe, ALONE), ALONE), tmp_path, resuming=False)
    assert far(load_file(pair / f"{name}.safetensors"), alone.weights) < 1e-5


def test_moments_of_shards_are_put_together(pair: Path, single: dict[str, torch.Tensor]) -> None:
    recipe = read_recipe(pair / "tiny.toml")
    states = []
    for name in ("fsdp1", "single"):
        training = Training.of(recipe, open_task(recipe, ALONE), ALONE)
        state = resume.state_tensors(training.model, training.optimizer, training.ema)
        resume.load_state(pair / name, 12, state, ALONE)
        states.append({key: tensor.clone() for key, tensor in state.items()})
    assert any(key.endswith("exp_avg_sq") for key in states[0])
    assert far(*states) < 1e-5
    assert max(states[0][key].abs().max() for key in states[0] if key.endswith("exp_avg")) > 1e-4


def test_shards_were_written_by_both(pair: Path) -> None:
    assert len(list((pair / "fsdp1" / "state" / "step-00000012").iterdir())) == 2


def test_every_picture_is_predicted_once(pair: Path) -> None:
    held_out = digits().held_out
    few = Glyphs(held_out.pixels[:7], held_out.labels[:7])  # type: ignore[attr-defined]
    flat = torch.nn.Flatten()
    preprocessing = Preprocessing(height=8, width=8, resize="squash", interpolation="box")

    class FirstTen(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return flat(x)[:, :10]

    probabilities, labels = predict(FirstTen(), few, preprocessing, ALONE, batch=3)
    found = load_file(pair / "few")
    assert torch.equal(found["probabilities"], torch.from_numpy(probabilities))
    assert torch.equal(found["labels"], torch.from_numpy(labels))


def test_batch_that_cannot_be_shared_out_is_refused(tiny: Path, tmp_path: Path) -> None:
    recipe, process = read_recipe(tiny, ["run.batch=63"]), Process(0, 2, torch.device("cpu"))
    with pytest.raises(RecipeError, match=r"run.batch = 63 must be a multiple of 2 processes x run.accumulate 1"):
        Training.of(recipe, open_task(recipe, process), process)


def test_strategies_that_do_not_fit_are_refused() -> None:
    layer, pair = torch.nn.Linear(2, 2), Process(0, 2, torch.device("cpu"))
    with pytest.raises(StrategyError, match="'single' cannot use 2 processes; use auto, ddp or fsdp"):
        distribute(layer, "single", pair)
    for strategy in ("ddp", "fsdp"):
        with pytest.raises(StrategyError, match=f"'{strategy}' needs several processes; start with torchrun"):
            distribute(layer, strategy, ALONE)
    assert distribute(layer, "auto", ALONE) is layer


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_told() -> None:
    with pytest.raises(StrategyError, match=r"needs GPU number 0, this machine shows 0"), processes("cuda"):
        pass
