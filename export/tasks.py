"""From the program's options to a job: the source names a model, and the model decides the task."""

import argparse

from export.classification import ClassificationJob
from export.denoising import DenoisingJob
from export.job import Job
from export.video_denoising import VideoDenoisingJob
from skipvit.denoiser_origin import resolve_denoiser
from skipvit.manifest import Task
from skipvit.origin import read_labels, resolve, task_of
from skipvit.picture_files import OriginError


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
        return ClassificationJob(origin, labels, options.images), origin.default_name
    _refuse(options, task, "labels", "pretrained")
    denoiser = resolve_denoiser(options.source, options.weights, dict(options.model_arg))
    job = VideoDenoisingJob if task == "video-denoising" else DenoisingJob
    return job(denoiser, options.images, options.tile, options.halo), denoiser.default_name


def _refuse(options: argparse.Namespace, task: Task, *names: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            raise OriginError(f"--{name} means nothing to {options.source}, a model for {task}; leave it out")
