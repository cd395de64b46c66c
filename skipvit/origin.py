"""Where a model comes from: a checkpoint of ours, or a name with weights from a file, a hub or nowhere.

What is shared by the programs that take any model: the model, its preprocessing and labels, and pictures to show it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import nn

from skipvit.checkpoints import (
    CONVERTED_FROM,
    DESCRIPTION,
    SAMPLES,
    Checkpoint,
    Classes,
    load_model,
    read_checkpoint,
    read_samples,
)
from skipvit.manifest import Evaluation, Task
from skipvit.models import create_model
from skipvit.models.official import is_official
from skipvit.models.timm_guard import timm
from skipvit.picture_files import OriginError
from skipvit.transforms import Pixels, Preprocessing
from skipvit.weights import MismatchError, WeightsError, fitted_to, load_weights, read_state


class Samples(NamedTuple):
    """Evaluation pictures that a checkpoint brings: (B, H, W, 3) uint8, class indices (B,), and where they are from."""

    images: Pixels
    labels: Classes
    source: str


@dataclass(frozen=True)
class Origin:
    """A model in eval mode on the CPU, with all that is known about it.

    ``create_model(architecture, **model_args)`` builds it again, without its weights.
    """

    model: nn.Module
    architecture: str
    model_args: dict[str, Any]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    weights_from: str
    default_name: str
    evaluation: Evaluation | None
    samples: Samples | None


def resolve(source: str, weights: Path | None, pretrained: bool, model_args: dict[str, Any]) -> Origin:
    """Builds the model that ``source`` names: a checkpoint folder, or a model's name.

    Raises:
        OriginError, CheckpointError, ValueError: it cannot be built; the message says why.
    """
    folder = Path(source)
    if os.path.exists(folder / DESCRIPTION):  # a name too long for a path exists nowhere, and raises nothing here
        if weights or pretrained or model_args:
            raise OriginError(f"{source} is a checkpoint and brings its own weights; leave the other options out")
        return _from_checkpoint(folder)
    if os.path.exists(folder) or "/" in source or "\\" in source:
        raise OriginError(f"{source} is not a checkpoint: it has no {DESCRIPTION}; train one with skipvit-train")
    return _from_name(source, weights, pretrained, model_args)


def task_of(source: str) -> Task:
    """What the model that ``source`` names is for. Names that nothing is known of count as classifiers, as timm's are.

    Raises:
        CheckpointError: it is a checkpoint whose description cannot be read.
    """
    if os.path.exists(Path(source) / DESCRIPTION):
        return read_checkpoint(Path(source)).task
    return task_of_name(source)


def task_of_name(name: str) -> Task:
    """What the model of that name is for; see ``task_of``. It is not built."""
    architecture = name.split(".")[0]
    entry_point = timm.model_entrypoint(architecture) if timm.is_model(architecture) else None
    return getattr(entry_point, "task", "classification")


def _check_classifies(source: str | Path, task: Task) -> None:
    if task != "classification":
        raise OriginError(f"{source} is a model for {task}, and a classifier is needed; give another")


def _from_checkpoint(folder: Path) -> Origin:
    _check_classifies(folder, read_checkpoint(folder).task)
    model, checkpoint = load_model(folder)
    return Origin(
        model=model,
        architecture=checkpoint.architecture,
        model_args=checkpoint.model_args,
        preprocessing=checkpoint.classifier_preprocessing,
        labels=checkpoint.labels,
        weights_from=f"checkpoint {folder.resolve().name}, {_history(checkpoint)}, commit {checkpoint.commit}",
        default_name=folder.resolve().name,
        evaluation=checkpoint.evaluation,
        samples=_samples(folder, checkpoint),
    )


def _history(checkpoint: Checkpoint) -> str:
    source = checkpoint.recipe.get(CONVERTED_FROM)
    return f"converted from {source}" if isinstance(source, str) else f"{checkpoint.epochs} epochs"


def _samples(folder: Path, checkpoint: Checkpoint) -> Samples | None:
    samples = read_samples(folder)
    if samples is None:
        return None
    images, labels = samples
    size = (checkpoint.classifier_preprocessing.height, checkpoint.classifier_preprocessing.width)
    if images.shape[1:3] != size:
        raise OriginError(
            f"{folder / SAMPLES} holds pictures of {images.shape[1:3]}, the model takes {size}; "
            "remove that file or give pictures of your own"
        )
    of = checkpoint.evaluation.dataset if checkpoint.evaluation else "the checkpoint's set"
    return Samples(images, labels, f"{len(images)} evaluation pictures of {of}")


def _from_name(name: str, weights: Path | None, pretrained: bool, model_args: dict[str, Any]) -> Origin:
    if model_args.get("in_chans", 3) != 3:
        raise OriginError(f"pictures have 3 channels, got in_chans={model_args['in_chans']}; leave it out")
    _check_classifies(name, task_of(name))
    torch.manual_seed(0)
    try:
        model = create_model(name, pretrained=pretrained, **model_args).eval()
    except OSError as error:
        raise OriginError(f"{name}: its weights cannot be fetched ({error}); give a file with --weights") from None
    except (TypeError, RuntimeError, AssertionError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
        asked = ", ".join(f"{key}={value}" for key, value in model_args.items()) or "no arguments"
        weighed = "with timm's weights" if pretrained else "without weights"
        raise OriginError(
            f"{name} cannot be built {weighed} and {asked}: {error}; correct --model-arg, or leave --pretrained out"
        ) from None
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        raise OriginError(f"{name} with these arguments is no classifier; correct --model-arg")
    where = "timm's hub" if pretrained else "random initialisation, seed 0"
    if weights is not None:
        where = _load_weights(model, weights)
    return Origin(
        model=model,
        architecture=name,
        model_args=model_args,
        preprocessing=evaluation_preprocessing(name, model, model_args),
        labels=class_names(classes, imagenet=pretrained),
        weights_from=where,
        default_name=name.split(".")[0],
        evaluation=None,
        samples=None,
    )


def evaluation_preprocessing(name: str, model: nn.Module, model_args: Mapping[str, Any]) -> Preprocessing:
    """timm's evaluation settings of a model, at the size it was built for.

    Raises:
        OriginError: they are not among those that we know.
    """
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    if "img_size" in model_args:
        size = model_args["img_size"]
        height, width = (size, size) if isinstance(size, int) else size
    resize: Any = {"center": "crop", "squash": "squash"}.get(config["crop_mode"])
    try:
        return Preprocessing(
            height=height,
            width=width,
            resize=resize,
            crop_pct=config["crop_pct"],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise OriginError(
            f"{name}: timm's {'.'.join(map(str, first['loc']))} of it is not one that skipvit knows "
            f"({first['msg']}, crop_mode {config['crop_mode']}, crop_pct {config['crop_pct']}); "
            "train a checkpoint instead"
        ) from None


def _load_weights(model: nn.Module, path: Path) -> str:
    try:
        state = read_state(path).tensors
        if is_official(state):
            raise OriginError(
                f"{path} is a file of the authors of SkipAt; make a checkpoint of it: "
                f"skipvit-convert --from-official {path} --out FOLDER"
            )
        fitted, done = fitted_to(model, state)
        load_weights(model, fitted, str(path))
    except MismatchError as error:
        raise OriginError(f"{error}; give the model, and with --model-arg the arguments, it was trained with") from None
    except WeightsError as error:
        raise OriginError(str(error)) from None
    return f"file {path.name}, {done}" if done else f"file {path.name}"


def class_names(count: int, imagenet: bool) -> tuple[str, ...]:
    """ImageNet-1K's names where the classes are its 1000, else "class 0", "class 1" ..."""
    if imagenet and count == 1000:
        info = timm.data.ImageNetInfo()
        return tuple(info.index_to_description(index) for index in range(count))
    return tuple(f"class {index}" for index in range(count))


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, UTF-8.

    Raises:
        OriginError: the file cannot be read as such.
    """
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise OriginError(f"{path} cannot be read as UTF-8 text ({error}); give one label a line") from None


def check_labels(labels: Sequence[str], classes: int) -> None:
    """Raises OriginError where there is not one label for each class, each on a line of its own."""
    if len(labels) != classes:
        raise OriginError(f"the model has {classes} classes, but {len(labels)} labels were given; give one for each")
    if any(len(label.splitlines()) != 1 or not label.strip() for label in labels):
        raise OriginError("a label is empty or has a line break in it; labels.txt holds one a line")
