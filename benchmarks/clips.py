"""The demo's video denoiser beside itself without neighbours in time, on held-out clips: PSNR, SSIM and what they cost.

Both are trained by the demo's recipe on the same noisy frames in the same steps, each in a process of one thread, and
measured as skipvit-evaluate measures: noise drawn once for a sequence, frames averaged over it, then over sequences.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.trainings import Training, carry_out, folder_of, said_of
from skipvit.checkpoints import read_checkpoint
from train.evaluation import EXPECTED, Options
from train.measure_video import measure_video

PACKAGES = ("torch", "scikit-image", "numpy")
_RECIPE = "pans_skipat"
_METHODS = {
    "noisy": "noisy",
    "beside": "SkipAt video denoiser micro, each frame alone",
    "model": "SkipAt video denoiser micro, 5 frames",
}


def measure(seeds: Sequence[int], sigmas: Sequence[float], scratch: Path, jobs: int) -> list[dict[str, object]]:
    """A row a method, seed and sigma; the noisy input has no seed.

    Args:
        scratch: where finished trainings are kept, for a run that goes on after an interruption.
        jobs: trainings at a time.

    Raises:
        RuntimeError: a training failed, or its checkpoint cannot be measured.
    """
    scratch = scratch.resolve()
    trainings = [_training(method, seed) for seed in seeds for method in ("model", "beside")]
    carry_out(trainings, scratch, jobs, "training")
    rows = [row for seed in seeds for row in _rows(seed, sigmas, scratch) if seed == seeds[0] or row["seed"] != ""]
    return sorted(rows, key=lambda row: float(str(row["sigma"])))


def _training(method: str, seed: int) -> Training:
    alone = ("--set", "data.alone=true") if method == "beside" else ()
    return Training(_name(method, seed), "train.run", (_RECIPE, "--set", f"run.seed={seed}", *alone))


def _name(method: str, seed: int) -> str:
    return f"pans_{'single' if method == 'beside' else 'skipat'}_{seed}"


def _rows(seed: int, sigmas: Sequence[float], scratch: Path) -> list[dict[str, object]]:
    runs = {method: folder_of(scratch, _name(method, seed)) for method in ("model", "beside")}
    try:
        content = measure_video(runs["model"], Options(None, 1, 0, "cpu", tuple(sigmas), beside=runs["beside"])).content
        commits = {method: read_checkpoint(run).commit for method, run in runs.items()}
    except EXPECTED as error:
        raise RuntimeError(str(error)) from None
    rows: list[dict[str, object]] = []
    for block in content["means"]:
        results = [row for row in content["results"] if row["sigma"] == block["sigma"]]
        for method, label in _METHODS.items():
            means = block["methods"][method]
            said = said_of(_name(method, seed), scratch) if method in runs else {}
            rows.append(
                {
                    "method": label,
                    "seed": seed if said else "",
                    "sigma": block["sigma"],
                    **{f"psnr_{row['sequence']}_db": round(row["methods"][method]["psnr"], 3) for row in results},
                    "psnr_db": round(means["psnr"], 3),
                    "psnr_float_db": round(means["psnr_float"], 3),
                    "ssim": round(means["ssim"], 4),
                    "cpu_s_per_clip": round(means["cpu_seconds"], 2) if "cpu_seconds" in means else "",
                    "train_cpu_s": round(said["cpu_seconds"]) if said else "",
                    "trained_at": commits.get(method, ""),
                }
            )
    return rows
