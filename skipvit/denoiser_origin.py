"""Where a denoiser comes from: a checkpoint of ours, or a name with weights from a file or nowhere.

The counterpart of skipvit.origin, which finds classifiers.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipvit.checkpoints import DESCRIPTION, CleanSamples, load_model, read_clean_samples
from skipvit.manifest import Evaluation, Task
from skipvit.models import create_model
from skipvit.origin import task_of
from skipvit.picture_files import OriginError
from skipvit.weights import MismatchError, WeightsError, load_weights, read_state


@dataclass(frozen=True)
class DenoiserOrigin:
    """A denoiser in eval mode on the CPU, with all that is known about it.

    ``create_model(architecture, **model_args)`` builds it again, without its weights.
    """

    task: Task
    model: nn.Module
    architecture: str
    model_args: dict[str, Any]
    weights_from: str
    default_name: str
    evaluation: Evaluation | None
    samples: CleanSamples | None


def resolve_denoiser(source: str, weights: Path | None, model_args: dict[str, Any]) -> DenoiserOrigin:
    """Builds the denoiser that ``source`` names: a checkpoint folder, or a model's name.

    Raises:
        OriginError, CheckpointError, ValueError: it cannot be built, or is no denoiser; the message says why.
    """
    if (task := task_of(source)) == "classification":
        raise OriginError(f"{source} is a classifier, and a denoiser is needed; give another")
    folder = Path(source)
    if not os.path.exists(folder / DESCRIPTION):
        return _from_name(source, task, weights, model_args)
    if weights or model_args:
        raise OriginError(f"{source} is a checkpoint and brings its own weights; leave the other options out")
    model, checkpoint = load_model(folder)
    return DenoiserOrigin(
        task=task,
        model=model,
        architecture=checkpoint.architecture,
        model_args=checkpoint.model_args,
        weights_from=f"checkpoint {folder.resolve().name}, {checkpoint.epochs} epochs, commit {checkpoint.commit}",
        default_name=folder.resolve().name,
        evaluation=checkpoint.evaluation,
        samples=read_clean_samples(folder),
    )


def _from_name(name: str, task: Task, weights: Path | None, model_args: dict[str, Any]) -> DenoiserOrigin:
    torch.manual_seed(0)
    try:
        model = create_model(name, **model_args).eval()
    except (TypeError, RuntimeError, AssertionError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
        asked = ", ".join(f"{key}={value}" for key, value in model_args.items()) or "no arguments"
        raise OriginError(f"{name} cannot be built with {asked}: {error}; correct --model-arg") from None
    where = "random initialisation, seed 0"
    if weights is not None:
        where = f"file {weights.name}"
        _load_weights(model, weights)
    return DenoiserOrigin(
        task=task,
        model=model,
        architecture=name,
        model_args=model_args,
        weights_from=where,
        default_name=name.split(".")[0],
        evaluation=None,
        samples=None,
    )


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        load_weights(model, read_state(path).tensors, str(path))
    except MismatchError as error:
        raise OriginError(f"{error}; give the model, and with --model-arg the arguments, it was trained with") from None
    except WeightsError as error:
        raise OriginError(str(error)) from None
