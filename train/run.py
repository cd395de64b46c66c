"""Trains a recipe and leaves a checkpoint.

    skipvit-train digits_skipat --out runs/digits
    skipvit-train my.toml --set optim.lr=1e-3 --set run.seed=1
    skipvit-train digits_skipat --out runs/digits --resume
    torchrun --nproc-per-node 8 -m train.run skipat_small --set data.uri=imagefolder:/data/imagenet
    skipvit-train digits_dgssa_glad --set model.weights=runs/digits_vit --set distill.teacher=runs/digits_vit
    skipvit-train photos_skipat --set data.uri=gaussian:/my/photographs

A recipe's task says which sections it may have. [guide] trains static attention beside the attention that it
replaces, [distill] names a teacher, [noise] is what a denoiser takes away, and model.weights what to start from;
train/recipe.py and train/<task>_recipe.py describe every key.

Killed or stopped, a run goes on with --resume as if nothing had happened; --resume starts a run that is not there yet.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the repository root, not train/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.recipe import PACKAGED, Recipe, RecipeError, find_recipe, read_recipe

RECIPE = "recipe.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parse(argv)
    try:
        recipe = read_recipe(args.recipe, args.set)
        out = args.out or Path("runs") / find_recipe(args.recipe).stem
        _check_out(out, recipe, args.resume)
    except RecipeError as error:
        return _fail(error)
    _set_threads(recipe.run.threads)
    # torch is slow to load, and neither --help nor a typo in a recipe should wait for it, or need it.
    try:
        from train import program
    except ModuleNotFoundError as error:
        return _fail(f"training needs {error.name}; run: pip install 'skipvit[train]'")
    try:
        return program.train(recipe, out, resuming=args.resume)
    except program.EXPECTED as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("skipvit-train: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(f"{error.filename or out}: {error.strerror or error}; give another --out, or make room")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    packaged = ", ".join(sorted(path.stem for path in PACKAGED.glob("*.toml")))
    parser = argparse.ArgumentParser(
        "skipvit-train",
        description=__doc__,
        epilog=f"packaged recipes: {packaged}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a TOML file, a run's recipe.json, or the bare name of a packaged recipe")
    parser.add_argument("--out", type=Path, help="folder of the run and its checkpoint; runs/<recipe> unless given")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last state, if it has one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's value")
    return parser.parse_args(argv)


def _check_out(out: Path, recipe: Recipe, resuming: bool) -> None:
    """Refuses to mix two runs in one folder."""
    before = out / RECIPE
    if not before.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RecipeError(f"{out} exists and is not a run of skipvit-train; give another --out")
        return
    if not resuming:
        raise RecipeError(f"{out} holds a run already; go on with --resume, remove it, or give another --out")
    free = ("run.", "data.workers")  # how the run is carried out, not what it computes
    changed = [line for line in recipe.differences(read_recipe(before)) if not line.startswith(free)]
    changed += [line for line in recipe.differences(read_recipe(before)) if line.startswith(("run.seed", "run.batch"))]
    if changed:
        raise RecipeError(f"{out} was started with another recipe; to resume it, undo:\n  " + "\n  ".join(changed))


def _set_threads(threads: int) -> None:
    """OpenMP reads these once, when torch loads it."""
    if threads == 0:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // local)
        if "OMP_NUM_THREADS" in os.environ:  # the user, or torchrun, has decided
            return
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep; spinning starves a busy machine


def _fail(error: Exception | str) -> int:
    print(f"skipvit-train: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
