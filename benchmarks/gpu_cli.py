"""``skipvit-bench gpu``: its arguments, and what it prints."""

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from benchmarks.families import FAMILIES, GPU_FORMS
from benchmarks.rows import print_table
from skipvit.arguments import whole

if TYPE_CHECKING:
    from benchmarks.gpu import Outcome

_SAME_FOR_ALL = {"device", "driver", "cuda", "compile_mode", "rounds", "input_sets"}


def add_arguments(gpu: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    add = gpu.add_argument
    add("--only", choices=("kernels", "models"), help="one of the two parts (default: both, each with its own budget)")
    add("--smoke", action="store_true", help="run the whole program on the CPU at tiny sizes; its figures mean nothing")
    add("--budget-s", type=float, default=540.0, metavar="S",
        help="begin nothing that would not be done by then; what is done is kept (default: 540)")  # fmt: skip
    add("--rounds", type=whole(1), default=15, help="turns of every candidate (default: 15)")
    add("--mode", help="of torch.compile; graphs are captured in any case (default: default)")
    add("--jobs", type=whole(0), default=0, help="processes that compile models ahead, in half the budget (default: 0)")
    add("--missing", action="store_true", help="leave out what this month's file of this GPU has already")
    add("--commit", help="of the source, where it lies outside git")
    models = gpu.add_argument_group("models", "Of each list, what is named first is measured first.")
    add = models.add_argument
    add("--sizes", nargs="+", choices=("small", "base", "tiny"), default=["small", "base", "tiny"])
    add("--resolutions", nargs="+", type=whole(16), default=[224, 512, 384], help="in pixels (default: 224 512 384)")
    add("--batches", nargs="+", type=whole(1), default=[256, 32, 1], help="images a call (default: 256 32 1)")
    add("--dtypes", nargs="+", choices=("bf16", "fp16"), default=["bf16", "fp16"])
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="vit is always among them")
    add("--forms", nargs="+", choices=GPU_FORMS, default=list(GPU_FORMS), help="with our kernels, or plain formulas")


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints and gives the exit status: 1 where a kernel or model is wrong or fails.

    Raises:
        RuntimeError: there is no GPU.
    """
    import torch  # noqa: F401 - before our own modules: see gpu_ahead

    from benchmarks import gpu

    options = gpu.Options(
        out=arguments.out,
        smoke=arguments.smoke,
        budget_s=arguments.budget_s,
        rounds=arguments.rounds,
        mode=arguments.mode or ("backend:eager" if arguments.smoke else "default"),
        families=arguments.families,
        forms=[GPU_FORMS[name] for name in arguments.forms],
        commit=arguments.commit,
        jobs=arguments.jobs,
        missing=arguments.missing,
    )
    status = 0
    if arguments.only in (None, "kernels"):
        status |= _tell(gpu.measure_kernels(options))
    if arguments.only in (None, "models"):
        from benchmarks.gpu_models import SMOKE, plan

        lists = (arguments.sizes, arguments.resolutions, arguments.batches, arguments.dtypes)
        status |= _tell(gpu.measure_models(options, SMOKE if arguments.smoke else plan(*lists)))
    return status


def _tell(outcome: "Outcome") -> int:
    shown: list[Mapping[str, object]] = [
        {name: value for name, value in row.items() if name not in _SAME_FOR_ALL} for row in outcome.rows
    ]
    if shown:
        print_table(shown)
    for failure in outcome.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if outcome.undone:
        print(f"The budget is over; {len(outcome.undone)} were not measured: {', '.join(outcome.undone)}")
    if outcome.path is not None:
        print(f"Written: {outcome.path}")
    return 1 if outcome.failures else 0
