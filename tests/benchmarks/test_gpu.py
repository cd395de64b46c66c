"""The GPU's benchmark, run to its end on the CPU. What it would say of a wrong kernel; no figure is judged."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_kernels, gpu_models, rows
from benchmarks.cli import main
from benchmarks.families import FAMILIES, FORMULAS, KERNELS
from benchmarks.gpu_cases import Case, cases, smoke_cases
from benchmarks.gpu_clock import CpuClock
from benchmarks.gpu_forms import formulas
from benchmarks.gpu_models import SMOKE, Setting, plan
from skipvit.layers import phi
from skipvit.ops import eca_gate, eca_gate_reference
from trt_plugins import torch_kernels
from trt_plugins.operators import ALL

ROOT = Path(__file__).resolve().parents[2]


def read(folder: Path, what: str) -> list[dict[str, str]]:
    (path,) = folder.glob(f"{what}_*.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_smoke_run_measures_every_kernel_and_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "gpu", "--smoke", "--rounds", "1"]) == 0
    kernels, models = read(tmp_path, "smoke_gpu_kernels"), read(tmp_path, "smoke_gpu_models")
    assert {row["op"] for row in kernels} == {op.name for op in ALL}
    assert {row["correct"] for row in kernels} == {"yes"}
    assert {(row["model"], row["form"]) for row in models} == {
        (f"{family}_micro", form)
        for family in FAMILIES
        for form in ((FORMULAS,) if family == "vit" else (KERNELS, FORMULAS))
    }
    assert {row["device"] for row in [*kernels, *models]} == {"cpu smoke"}
    assert rows.newest("gpu_kernels", tmp_path) is None, "a smoke run's figures must never be taken for a GPU's"
    assert "FAILED" not in capsys.readouterr().err


def test_without_a_gpu_it_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path), "gpu", "--only", "models"]) == 1
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def broken(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Makes every kernel leave ``value`` in the last element of its output."""
    run = torch_kernels._on_the_host

    def spoil(*arguments: Any) -> Any:
        output = run(*arguments)
        output.view(-1)[-1] = value
        return output

    monkeypatch.setattr(torch_kernels, "_on_the_host", spoil)


@pytest.mark.parametrize("value", [float("nan"), 3.0])
def test_a_wrong_kernel_is_told_and_not_timed(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, value)
    outcome = gpu.measure_kernels(gpu.Options(tmp_path, smoke=True, rounds=1))
    assert {row["correct"] for row in outcome.rows} == {"NO"}
    assert {row["us"] for row in outcome.rows} == {""}
    assert len(outcome.failures) == len(outcome.rows) > 0


def test_a_model_with_a_wrong_kernel_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, 1e3)
    found, failures = gpu_models.measure(SMOKE[0], CpuClock(), 1, "backend:eager", ["skipat"], [KERNELS, FORMULAS])
    assert [(row["model"], row["form"]) for row in found] == [("skipat_micro", FORMULAS), ("vit_micro", FORMULAS)]
    (failure,) = failures
    assert "skipat by our kernels: its logits are" in failure


def test_a_run_whose_budget_is_over_keeps_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "gpu", "--smoke", "--only", "kernels", "--budget-s", "0"]) == 0
    assert f"The budget is over; {2 * len(ALL)} were not measured" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_budget_counts_on_the_longest_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    budget = gpu.Budget(100)
    answers = []
    for moment in (0, 10, 50, 61):  # pieces of 10, 40 and 11 seconds; after 61 one of 40 would not fit
        now[0] = moment
        answers.append(budget.begin())
    assert answers == [True, True, True, False]


def test_the_plan_is_whole_and_begins_with_what_matters_most() -> None:
    found = plan(["small", "base"], [224, 512], [256, 1], ["bf16", "fp16"])
    assert found[0] == Setting("small_patch16_224", 224, 256, "bf16")
    assert len(set(found)) == len(found) == 16
    assert found[-1] == Setting("base_patch16_224", 512, 1, "fp16")


def test_every_op_has_cases_of_its_ranks() -> None:
    named = {case.op for case in cases()}
    assert named == {case.op for case in smoke_cases()} == set(torch_kernels.TORCH_OPS)
    for op in ALL:
        for case in (case for case in [*cases(), *smoke_cases()] if case.op == op.name):
            assert all(len(s) in ranks for s, ranks in zip(case.shapes, op.ranks, strict=True))
            op.launch(case.shapes, torch_kernels.TORCH_OPS[op.name].attributes(case.shapes))


def test_formulas_stand_in_for_ops_inside_the_context_alone() -> None:
    with formulas():
        assert phi.eca_gate is eca_gate_reference
    assert phi.eca_gate is eca_gate


def test_rows_of_the_same_gpu_that_were_not_measured_anew_stay(tmp_path: Path) -> None:
    def write(*pairs: tuple[str, int]) -> None:
        new = [{"op": op, "us": us} for op, us in pairs]
        rows.write_rows("gpu_x", new, (), tmp_path, machine="A GPU", commit="abc", keys=("op",))

    write(("a", 1), ("b", 2))
    write(("b", 3), ("c", 4))
    found = read(tmp_path, "gpu_x")
    assert [(row["op"], row["us"]) for row in found] == [("a", "1"), ("b", "3"), ("c", "4")]
    assert {(row["machine"], row["commit"]) for row in found} == {("A GPU", "abc")}


def test_errors_are_those_of_the_images_at_both_ends() -> None:
    case = next(case for case in smoke_cases() if case.op == ALL[0].name)
    inputs = gpu_kernels.drawn(case, torch.device("cpu"))
    assert gpu_kernels.error_of(ALL[0], inputs, case.per_image) <= gpu_kernels.LIMITS[case.scalar]


def test_a_machine_with_a_gpu_needs_neither_pydantic_nor_psutil() -> None:
    """The machines that lend GPUs have PyTorch, timm and the bindings, and no index to install from."""
    block = "import sys; sys.modules.update(dict.fromkeys(('pydantic', 'psutil', 'fastapi')))"
    for_kernels = "import torch, benchmarks.cli, benchmarks.gpu; assert 'timm' not in sys.modules"
    for_models = "import benchmarks.gpu_ahead, benchmarks.gpu_models"
    subprocess.run([sys.executable, "-c", f"{block}; {for_kernels}; {for_models}"], cwd=ROOT, check=True)


@pytest.mark.slow
def test_models_compiled_ahead_need_no_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    command = ["--out", str(tmp_path), "gpu", "--smoke", "--only", "models", "--rounds", "1", "--mode", "default"]
    own = [*command, "--jobs", "2", "--families", "skipat", "--forms", "kernels"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", *own], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "2 models compiled ahead" in done.stderr
    assert "2 models needed no compiling any more" in done.stderr


def test_what_a_file_has_already_is_left_out_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def models(setting: Setting, *_: Any) -> tuple[list[dict[str, object]], list[str]]:
        return [dict(zip(gpu_models.KEYS, gpu_models.vit_key_of(setting, "default"), strict=True))], []

    def kernel(case: Case, *_: Any) -> dict[str, object]:
        return {**dict(zip(gpu_kernels.KEYS, gpu_kernels.key_of(case), strict=True)), "correct": "yes"}

    every = list(smoke_cases())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(gpu, "clock_of", lambda options: CpuClock())
    monkeypatch.setattr(gpu_models, "measure", models)
    monkeypatch.setattr(gpu_kernels, "measure", kernel)
    options = gpu.Options(tmp_path, commit="abc", missing=True)
    settings = plan(["small"], [224, 512], [1], ["bf16", "fp16"])
    for cases_known, settings_known, expected in ((2, 1, (2, 1)), (5, 4, (3, 3)), (5, 4, (0, 0))):
        monkeypatch.setattr(gpu, "cases", lambda known=cases_known: every[:known])
        parts = gpu.measure_kernels(options), gpu.measure_models(options, settings[:settings_known])
        assert tuple(len(part.rows) for part in parts) == expected
    assert (len(read(tmp_path, "gpu_kernels")), len(read(tmp_path, "gpu_models"))) == (5, 4)
