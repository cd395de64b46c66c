"""From the program's options to a job: the source names a model, and the model decides the task."""

import argparse
from collections.abc import Sequence
from typing import Any

from export.classification import ClassificationJob
from export.denoising import DenoisingJob
from export.job import Job
from export.quantisation import Int8
from export.video_denoising import VideoDenoisingJob
from skipvit.denoiser_origin import resolve_denoiser
from skipvit.manifest import Task
from skipvit.origin import read_labels, resolve, task_of
from skipvit.picture_files import OriginError

_INT8_OPTIONS = ("calibration", "min_agreement", "full_range")


def open_job(options: argparse.Namespace) -> tuple[Job, str]:
    """The job that the options ask for, and the entry's name unless they give another.

    Raises:
        CheckpointError, OriginError, ValueError: there is no such model, or an option does not suit it.
    """
    task = task_of(options.source)
    if task == "classification":
        _refuse(options, task, "tile", "halo")
        origin = resolve(options.source, options.weights, options.pretrained, dict(options.model_arg))
        labels = read_labels(options.labels) if options.labels else origin.labels
        return ClassificationJob(origin, labels, options.images, _int8(options)), origin.default_name
    if "int8" in options.precision:
        raise OriginError(
            f"{options.source} is a model for {task}, and int8 is for classifiers, whose answer is a class and not "
            "pixels; export it in fp32 or fp16"
        )
    _refuse(options, task, "labels", "pretrained", *_INT8_OPTIONS)
    denoiser = resolve_denoiser(options.source, options.weights, dict(options.model_arg))
    job = VideoDenoisingJob if task == "video-denoising" else DenoisingJob
    return job(denoiser, options.images, options.tile, options.halo), denoiser.default_name


def _int8(options: argparse.Namespace) -> Int8 | None:
    chosen = _given(options, _INT8_OPTIONS)
    if "int8" in options.precision:
        return Int8(**chosen)
    for name in chosen:
        raise OriginError(f"{_flag(name)} means nothing without int8; leave it out, or give --precision int8")
    return None


def _refuse(options: argparse.Namespace, task: Task, *names: str) -> None:
    for name in _given(options, names):
        raise OriginError(f"{_flag(name)} means nothing to {options.source}, a model for {task}; leave it out")


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
