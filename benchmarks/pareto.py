"""Accuracy against speed of the demo's family: who is both less accurate and slower than another, and who is not.

Every model is trained, or converted from the ViT of the same seed, with the recipes' own budget, and judged on the
same held-out digits. Their speed is that of our export in ONNX Runtime on one thread, all of them in turns within one
run: CPU time, so that images/s a core is 1000 over milliseconds of CPU an image. It does not depend on weights, so one
seed's stand for all.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.timing import Candidate, checked_drift, interleave, logits_of, onnx_run, torch_run
from benchmarks.trainings import Training, carry_out, folder_of
from benchmarks.turns import speedup
from export.deploy import DeployClassifier, Normalise
from export.graph import to_graph
from skipvit.checkpoints import CheckpointError, load_model, read_checkpoint, read_samples
from skipvit.complexity import count_macs, count_params
from skipvit.models import create_model
from skipvit.models.spec import Spec
from skipvit.transforms import Pixels
from train.classification_recipe import Recipe
from train.recipe import RecipeError, read_recipe

PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "scikit-learn", "numpy")
VIT = "ViT"
_DATA = "builtin:digits-and-drawings"
_PRESET = "{}_micro_patch2_8"
_BATCH = 32  # pictures a call


@dataclass(frozen=True)
class Entry:
    """A candidate: a recipe with settings, or the spec of a family, or of all three, to convert the ViT to."""

    name: str
    recipe: str = ""
    settings: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    @property
    def converted(self) -> bool:
        return bool(self.families)


ENTRIES = (
    Entry(VIT, "digits_vit"),
    Entry("identity reuse", "digits_skipat", ("model.args.phi=identity",)),
    Entry("depthwise reuse", "digits_skipat", ("model.args.phi=dwconv",)),
    Entry("SkipAt", "digits_skipat"),
    Entry("DGSSA", "digits_dgssa"),
    Entry("GLAD", "digits_glad"),
    Entry("DGSSA+GLAD", "digits_dgssa_glad"),
    Entry("SkipAt, converted", families=("skipat",)),
    Entry("DGSSA, converted", families=("dgssa",)),
    Entry("GLAD, converted", families=("glad",)),
    Entry("all three, converted", families=("skipat", "dgssa", "glad")),
)


def measure(
    seeds: Sequence[int],
    scratch: Path,
    jobs: int = 1,
    rounds: int = 99,
    epochs: int | None = None,
    steps: int | None = None,
    entries: Sequence[Entry] = ENTRIES,
    any_commit: bool = False,
) -> list[dict[str, object]]:
    """A row a candidate and seed.

    Args:
        scratch: where finished trainings are kept, for a run that goes on after an interruption.
        jobs: trainings at a time.
        rounds: turns of every candidate when speed is measured.
        epochs: of every training, in place of the recipes' own.
        steps: of every conversion, in place of skipvit-convert's own.
        any_commit: takes up trainings that were finished at another commit; a row says at which its model was made.

    Raises:
        RuntimeError: a training failed, or the trained models cannot be compared.
    """
    scratch = scratch.resolve()
    trainings = [_training(e, s, epochs) for e in entries for s in seeds if e.recipe]
    cpu = carry_out(trainings, scratch, jobs, "training", any_commit)
    conversions = [_conversion(e, s, scratch, steps) for e in entries for s in seeds if e.converted]
    cpu |= carry_out(conversions, scratch, jobs, "converting", any_commit)
    try:
        times = _times({e.name: folder_of(scratch, _slug(e, seeds[0])) for e in entries}, rounds)
        return [_row(e, s, folder_of(scratch, _slug(e, s)), cpu[_slug(e, s)], times) for e in entries for s in seeds]
    except CheckpointError as error:
        raise RuntimeError(f"{error}; remove {scratch / 'finished'} to train again") from None


def _slug(entry: Entry, seed: int) -> str:
    return f"{entry.name.replace(',', '').replace('+', '_').replace(' ', '_').lower()}_{seed}"


def _training(entry: Entry, seed: int, epochs: int | None) -> Training:
    try:
        recipe = read_recipe(entry.recipe, entry.settings)
    except RecipeError as error:
        raise RuntimeError(str(error)) from None
    assert isinstance(recipe, Recipe), "the entries are classifiers"
    settings = [*entry.settings, f"run.seed={seed}"]
    if epochs is not None:  # a shorter training has its warm-up and its easy beginning in proportion
        share = epochs / recipe.schedule.epochs
        settings += [
            f"schedule.epochs={epochs}",
            f"schedule.warmup_epochs={share * recipe.schedule.warmup_epochs:.6f}",
            f"augment.ramp_epochs={share * recipe.augment.ramp_epochs:.6f}",
        ]
    return Training(_slug(entry, seed), "train.run", (entry.recipe, *(a for s in settings for a in ("--set", s))))


def _conversion(entry: Entry, seed: int, scratch: Path, steps: int | None) -> Training:
    source = folder_of(scratch, _slug(ENTRIES[0], seed))
    arguments = [str(source), _DATA, "--spec", str(joint_spec(entry.families)), "--seed", str(seed)]
    if "skipat" in entry.families:
        arguments += ["--phi-kernel-size", str(_preset("skipat").choices.phi_kernel_size)]
    arguments += ["--steps", str(steps)] if steps is not None else []
    return Training(_slug(entry, seed), "train.convert", tuple(arguments))


def joint_spec(families: Sequence[str]) -> Spec:
    """The specs of the demo's presets of these families in one; a block that two want is skipped."""
    specs = [_preset(family).spec for family in families]
    skip = {block for spec in specs for block in spec.skip}
    static = {block for spec in specs for block in spec.static} - skip
    return Spec(tuple(static), tuple(skip), tuple(r for spec in specs for r in spec.tokens))


def _preset(family: str) -> Any:
    return create_model(_PRESET.format(family))


def _times(folders: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds an image of each candidate's export, after it was compared with PyTorch."""
    pictures: Pixels | None = None
    candidates: dict[str, Candidate] = {}
    for name, folder in tqdm(folders.items(), desc="exporting", unit="model", leave=False):
        if pictures is None:
            samples = read_samples(folder)
            if samples is None:
                raise RuntimeError(f"{folder} has no evaluation pictures to compare and time its model on")
            pictures = samples[0][:_BATCH]
        candidates[name] = _candidate(name, folder, pictures)
    assert pictures is not None
    return interleave(candidates, pictures, rounds, f"speed at batch {len(pictures)}")


def _candidate(name: str, folder: Path, pictures: Pixels) -> Candidate:
    model, checkpoint = load_model(folder)
    size = checkpoint.classifier_preprocessing
    graph = to_graph(DeployClassifier(model, size), size.height, size.width)
    candidate = Candidate(lambda images: images, onnx_run(graph.SerializeToString()))
    plain = Candidate(lambda images: Normalise(size)(_channels_first(images)).numpy(), torch_run(model))
    checked_drift(logits_of(candidate, pictures), logits_of(plain, pictures), f"our export of {name}")
    return candidate


def _channels_first(pictures: Pixels) -> Any:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float()  # (B, H, W, 3) -> (B, 3, H, W)


def _row(entry: Entry, seed: int, folder: Path, cpu: float, times: dict[str, list[float]]) -> dict[str, object]:
    checkpoint = read_checkpoint(folder)
    if checkpoint.evaluation is None:
        raise RuntimeError(f"{folder} left no evaluation")
    model: Any = load_model(folder)[0]
    sample = torch.zeros(1, 3, checkpoint.classifier_preprocessing.height, checkpoint.classifier_preprocessing.width)
    own = times[entry.name]
    return {
        "candidate": entry.name,
        "start": "the ViT" if entry.converted else "random",
        "spec": str(getattr(model, "spec", "")),
        "seed": seed,
        "epochs": checkpoint.epochs,
        "held_out_images": checkpoint.evaluation.images,
        "top1_percent": round(100 * checkpoint.evaluation.metrics["top1"], 2),
        "images_per_s_per_core": round(1e3 / statistics.median(own), 1),
        "speedup_over_vit": round(speedup(times[VIT], own), 3),
        "batch": _BATCH,
        "params": count_params(model),
        "mmacs": round(count_macs(model, sample) / 1e6, 4),
        "train_cpu_s": round(cpu, 1),
        "trained_at": checkpoint.commit,
        "rounds": len(own),
    }
