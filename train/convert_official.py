"""The part of skipvit-convert that takes the authors' released SkipAt weights: their file in, a checkpoint out."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from tqdm import tqdm

from skipvit.artifacts import ArtifactError, sha256_of
from skipvit.checkpoints import CONVERTED_FROM, Checkpoint, save_checkpoint
from skipvit.complexity import count_params
from skipvit.models import create_model
from skipvit.models.official import CONTAINERS, Released, from_official
from skipvit.origin import check_labels, class_names, evaluation_preprocessing, read_labels
from skipvit.picture_files import OriginError
from skipvit.provenance import commit, versions_of
from skipvit.publishing import new_folder
from skipvit.transforms import Preprocessing
from skipvit.weights import State, WeightsError, load_weights, read_state

EXPECTED = (ArtifactError, OriginError, WeightsError)


def convert(file: Path, out: Path, labels: Path | None, num_heads: int | None) -> None:
    """Writes the checkpoint ``out`` from a released file, and prints what became of its weights.

    Raises:
        EXPECTED: anything the user can mend; nothing was written.
    """
    with tqdm(total=3, desc="reading", unit="step", leave=False) as bar:
        state = read_state(file, CONTAINERS)
        released = from_official(state.tensors, str(file), num_heads)
        bar.update()
        bar.set_description("building")
        model = create_model(released.architecture, **released.model_args).eval()
        load_weights(model, released.state, str(file))
        bar.update()
        bar.set_description("writing")
        classes = int(released.model_args["num_classes"])
        names = read_labels(labels) if labels else class_names(classes, imagenet=True)
        check_labels(names, classes)
        preprocessing = evaluation_preprocessing(released.architecture, model, released.model_args)
        description = _describe(file, state, released, names, preprocessing)
        with new_folder(out) as staging:
            save_checkpoint(staging, model.state_dict(), description)
        bar.update()
    _report(file, out, state, released, model)


def _describe(
    file: Path, state: State, released: Released, labels: tuple[str, ...], preprocessing: Preprocessing
) -> Checkpoint:
    under = f" under {state.container!r}" if state.container else ""
    return Checkpoint(
        architecture=released.architecture,
        model_args=released.model_args,
        labels=labels,
        preprocessing=preprocessing,
        recipe={CONVERTED_FROM: f"{file.name}{under}, sha256 {sha256_of(file)}"},
        epochs=0,
        versions=versions_of(("torch", "timm", "safetensors")),
        commit=commit(),
    )


def _report(file: Path, out: Path, state: State, released: Released, model: nn.Module) -> None:
    """A table for people, then one line of JSON."""
    args = ", ".join(f"{key}={value}" for key, value in released.model_args.items())
    print(f"{file.name} is {released.architecture} with {args}")
    rows = [("weights in the file", "here", "tensors", "values"), *_rows(state.tensors, released)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for theirs, ours, tensors, values in rows:
        print(f"  {theirs:<{widths[0]}}  {ours:<{widths[1]}}  {tensors:>{widths[2]}}  {values:>{widths[3]}}")
    print(f"checkpoint: {out}, {count_params(model):,} parameters")
    summary = {
        "checkpoint": str(out),
        "architecture": released.architecture,
        "model_args": released.model_args,
        "parameters": count_params(model),
        "renamed": released.renamed,
        "dropped": released.dropped,
        "dropped_parameters": released.dropped_params,
    }
    print(json.dumps(summary))


def _rows(state: Mapping[str, Tensor], released: Released) -> list[tuple[str, str, str, str]]:
    """Groups of weights: those that keep their names, each Φ, and the dead ones of each block."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in state:
        if name in released.dropped:
            block = ".".join(name.split(".")[:2])
            key = (f"{block}.attn.*, {block}.norm1.*", "dropped: never run")
        elif name in released.renamed:
            key = (f"{name.split('.')[0]}.*", ".".join(released.renamed[name].split(".")[:3]) + ".*")
        else:
            key = ("all others", "the same names")
        groups.setdefault(key, []).append(name)
    order = sorted(groups, key=lambda key: (key[1] != "the same names", key[1].startswith("dropped"), key))
    return [(*key, str(len(groups[key])), f"{sum(state[name].numel() for name in groups[key]):,}") for key in order]
