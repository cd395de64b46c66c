"""The demo's denoisers beside methods that need no training: PSNR and SSIM on held-out photographs, and what they cost.

Uformer and SkipAt-Uformer are trained by the demo's own recipes, alone on the machine one after another, and measured
as skipvit-evaluate measures: every method sees the same noise. Seconds of a classical method are those of its best
setting.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.trainings import Training, carry_out, folder_of, said_of
from skipvit.checkpoints import read_checkpoint
from train.evaluation import EXPECTED, Options
from train.measure_denoiser import measure_denoiser

PACKAGES = ("torch", "scikit-image", "numpy")
RECIPES = {"photos_uformer": "Uformer micro", "photos_skipat": "SkipAt-Uformer micro"}
SIGMA = 25.0
_CLASSICAL = {"noisy": "noisy", "total_variation": "total variation", "non_local_means": "non-local means"}


def measure(seeds: Sequence[int], sigmas: Sequence[float], scratch: Path) -> list[dict[str, object]]:
    """A row a method, seed and sigma; classical methods have no seed.

    Args:
        scratch: where finished trainings are kept, for a run that goes on after an interruption.

    Raises:
        RuntimeError: a training failed, or its checkpoint cannot be measured.
    """
    scratch = scratch.resolve()
    runs = {f"{recipe}_{seed}": (recipe, seed) for recipe in RECIPES for seed in seeds}
    trainings = [Training(name, "train.run", (r, "--set", f"run.seed={s}")) for name, (r, s) in runs.items()]
    carry_out(trainings, scratch, 1, "training")
    rows: list[dict[str, object]] = []
    for name, (recipe, seed) in runs.items():
        rows += _rows(folder_of(scratch, name), recipe, seed, sigmas, said_of(name, scratch), classical=not rows)
    return sorted(rows, key=lambda row: float(str(row["sigma"])))


def _rows(
    run: Path, recipe: str, seed: int, sigmas: Sequence[float], said: dict[str, float], classical: bool
) -> Iterator[dict[str, object]]:
    try:
        content = measure_denoiser(run, Options(None, 1, 0, "cpu", tuple(sigmas))).content
        commit = read_checkpoint(run).commit
    except EXPECTED as error:
        raise RuntimeError(str(error)) from None
    for block in content["means"]:
        results = [row for row in content["results"] if row["sigma"] == block["sigma"]]
        for method, means in block["methods"].items():
            if method == "model_on_8_bit_file" or (method in _CLASSICAL and not classical):
                continue
            trained = method not in _CLASSICAL
            yield {
                "method": RECIPES[recipe] if trained else _CLASSICAL[method],
                "seed": seed if trained else "",
                "sigma": block["sigma"],
                **{f"psnr_{row['image']}_db": round(row["methods"][method]["psnr"], 3) for row in results},
                "psnr_db": round(means["psnr"], 3),
                "psnr_float_db": round(means["psnr_float"], 3),
                "ssim": round(means["ssim"], 4),
                "psnr_of_8_bit_file_db": round(block["methods"]["model_on_8_bit_file"]["psnr"], 3) if trained else "",
                "cpu_s_per_picture": round(means["cpu_seconds"], 2) if "cpu_seconds" in means else "",
                "train_wall_s": round(said["seconds"]) if trained else "",
                "train_cpu_s": round(said["cpu_seconds"]) if trained else "",
                "trained_at": commit if trained else "",
            }


def curve(run: Path) -> list[dict[str, object]]:
    """A row for each evaluation in the course of a training, from its metrics.jsonl.

    Raises:
        RuntimeError: it is no run of a denoiser, or was never evaluated.
    """
    try:
        recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{run} is no run of skipvit-train ({error}); give its --out") from None
    found = [line for line in lines if "psnr" in line]
    if not found:
        raise RuntimeError(f"{run} holds no evaluation of a denoiser; give another run, or let it train on")
    return [
        {
            "model": recipe["model"]["name"],
            "noise": recipe["noise"]["sigma"],
            "patch_px": recipe["data"]["patch"],
            "batch": recipe["run"]["batch"],
            "seed": recipe["run"]["seed"],
            "step": line["step"],
            "psnr_db": round(line["psnr"], 3),
            "psnr_float_db": round(line["psnr_float"], 3),
            "ssim": round(line["ssim"], 4),
        }
        for line in found
    ]
