"""The part of skipvit-convert that gives somebody's ViT a spec: their model and pictures in, a checkpoint out.

    pooled       token pyramids are put in, as average pooling
    calibrated   static attention takes over the mean attention of the pictures    (train/calibrate.py)
    skipped      skipped blocks get a fresh Φ
    distilled    the whole model learns to answer as the original does             (train/imitation.py)

Fresh Φ come last, so that they disturb no calibration. After each stage the model is compared with the original.
"""

import hashlib
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from skipvit.checkpoints import CONVERTED_FROM, DESCRIPTION, Checkpoint, CheckpointError, save_checkpoint
from skipvit.manifest import Evaluation
from skipvit.metrics import classification_metrics, softmax
from skipvit.models import Choices, SkipVisionTransformer, Spec
from skipvit.origin import Origin, resolve
from skipvit.picture_files import OriginError
from skipvit.provenance import commit, versions_of
from train import resume
from train.batches import seed_everything
from train.calibrate import calibrate
from train.conversion import ConversionError, Progress, Settings, Stage, abandon, save_progress
from train.convert_report import HEADER, report, row
from train.denormals import flushed_denormals
from train.distributed import StrategyError, processes
from train.fidelity import Yardstick
from train.imitation import Lesson, affordable_steps, imitate
from train.pictures import DataError
from train.resume import ResumeError
from train.speed import clock_of
from train.unlabelled import Material, read_material
from train.variation import variation_for

EXPECTED = (ConversionError, CheckpointError, OriginError, DataError, StrategyError, ResumeError)

# A narrow model takes, and needs, a higher rate than a wide one: 5e-3 for 64 channels, 8e-4 for 384.
_LR_TIMES_CHANNELS = 0.3
# Of pictures up to this side, layers are too small to be shared: a second thread costs more than it brings.
_ONE_THREAD = 32
_PACKAGES = ("torch", "timm", "torchvision", "safetensors", "numpy", "pillow", "scikit-learn")


def convert(
    settings: Settings, out: Path, before: Progress | None, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> int:
    """Carries a conversion through to a checkpoint in ``out``; returns the exit status.

    Args:
        before: what an earlier run in ``out`` came to, to go on from there.

    Raises:
        EXPECTED: anything the user can mend; nothing new was left in ``out``.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    if resume.latest_step(out) is None:
        before = None  # it ended before it had learned anything
    with flushed_denormals(), processes(device) as process:
        if process.world > 1:
            raise ConversionError(f"conversion runs in one process, not in {process.world}; start it without torchrun")
        origin = _origin(settings)
        if origin.preprocessing.height <= _ONE_THREAD:
            torch.set_num_threads(1)
        student = _student(origin, settings).to(process.device)
        material = read_material(settings.images, origin.preprocessing, origin.labels, settings.limit)
        inputs = _digest(origin, material)
        if before is not None and before.inputs != inputs:
            raise ConversionError(
                f"{settings.model} or {settings.images} has changed since {out} was begun; restore what it was begun "
                f"with, or remove {out} to start again"
            )
        origin.model.to(process.device)
        yardstick = Yardstick.of(origin.model, material, origin.preprocessing, process.device)
        if not torch.isfinite(yardstick.reference).all():
            raise ConversionError(f"{settings.model} gives logits that are not finite; check its weights")
        stages = _Stages(yardstick)
        stages.begin(before, material.name, material.note)
        if before is None:
            _prepare(student, origin, yardstick, stages)
        lesson = Lesson(
            teacher=origin.model,
            student=student,
            pixels=material.train,
            variation=variation_for(settings.model, settings.augment),
            preprocessing=origin.preprocessing,
            batch=min(settings.batch or (64 if yardstick.tiny else 32), len(material.train)),
            lr=settings.lr or _LR_TIMES_CHANNELS / student.embed_dim,
            seed=settings.seed,
            process=process,
        )
        steps = before.steps if before else _steps(lesson, settings, time.perf_counter() - wall)
        if before is None:
            save_progress(out, Progress(settings=settings, inputs=inputs, steps=steps, stages=tuple(stages.found)))
        if stopped := _teach(lesson, steps, out, before is not None):
            return 130 if stopped == signal.SIGINT else 0  # 130 is what shells expect after Ctrl-C
        if steps:
            stages.add("distilled", student)
        checkpoint = _describe(settings, origin, lesson, yardstick, stages, steps)
        save_checkpoint(out, student.state_dict(), checkpoint, yardstick.samples())
        shutil.rmtree(out / resume.STATE, ignore_errors=True)
    report(out, checkpoint, stages.found, time.perf_counter() - wall, time.process_time() - cpu)
    return 0


class _Stages:
    """What was measured after each stage, told as it comes."""

    def __init__(self, yardstick: Yardstick) -> None:
        self.yardstick = yardstick
        self.found: list[Stage] = []

    def begin(self, before: Progress | None, name: str, note: str) -> None:
        """Measures the original, or repeats what was measured before a resume."""
        clock = clock_of(self.yardstick.device)
        tqdm.write(f"on {name}; images per second by {clock}, {self.yardstick.timed} at a time")
        if note:
            tqdm.write(note)
        tqdm.write(HEADER)
        for stage in before.stages if before else ():
            self._tell(stage)
        if before is None:
            self.add("original", self.yardstick.original)

    def add(self, name: str, model: nn.Module) -> None:
        self._tell(self.yardstick.stage(name, model))

    def _tell(self, stage: Stage) -> None:
        self.found.append(stage)
        tqdm.write(row(stage))


def _origin(settings: Settings) -> Origin:
    """The model to convert.

    Raises:
        ConversionError, OriginError, CheckpointError: it cannot be had, or cannot take a spec.
    """
    weights = Path(settings.weights) if settings.weights else None
    try:
        origin = resolve(settings.model, weights, settings.pretrained, dict(settings.model_args))
    except ValueError as error:
        raise ConversionError(str(error)) from None
    if isinstance(origin.model, SkipVisionTransformer):
        raise ConversionError(
            f"{settings.model} is {origin.architecture}, made under a spec already; give the plain ViT"
        )
    if getattr(origin.model, "num_classes", 0) < 2:
        raise ConversionError(
            f"{settings.model} is no classifier, and fidelity is measured on class probabilities; "
            "give a model with at least two classes"
        )
    if len(origin.labels) != origin.model.num_classes:
        raise ConversionError(
            f"{settings.model} has {origin.model.num_classes} classes and {len(origin.labels)} labels; "
            f"mend the labels in its {DESCRIPTION}"
        )
    if origin.weights_from.startswith("random"):
        tqdm.write(f"{settings.model} has random weights: give --weights or --pretrained to convert a trained model")
    return origin


def _student(origin: Origin, settings: Settings) -> SkipVisionTransformer:
    """The original under the spec: static matrices random, pyramids pooling, Φ fresh.

    Raises:
        ConversionError: the model, the spec and the choices do not go together.
    """
    seed_everything(settings.seed)
    try:
        spec = Spec.parse(settings.spec)
        if spec == Spec():
            raise ValueError("the spec is empty; write it like 'static:0-2 skip:4-8 tokens:98@3,49@6'")
        return SkipVisionTransformer.from_vit(origin.model, spec, Choices(**settings.choices)).eval()
    except ValueError as error:
        raise ConversionError(str(error)) from None


def _prepare(student: SkipVisionTransformer, origin: Origin, yardstick: Yardstick, stages: _Stages) -> None:
    """All that needs no training: pooling, calibration, and Φ as they start."""
    spec = student.spec
    # It still attends where the student skips; static blocks move over once they are calibrated.
    twin = SkipVisionTransformer.from_vit(origin.model, Spec(tokens=spec.tokens), student.choices).eval()
    if spec.tokens:
        stages.add("pooled", twin)
    if spec.static:
        total = -(-len(yardstick.material.train) // yardstick.batch)

        def pictures() -> Iterable[Tensor]:
            images = yardstick.images(yardstick.material.train)
            return tqdm(images, "calibrating", total, leave=False, unit="batch", disable=None)

        calibrate(student, twin, pictures)
        stages.add("calibrated", twin)
    if spec.skip:
        stages.add("skipped", student)


def _digest(origin: Origin, material: Material) -> str:
    """SHA-256 of the original's weights and of the pictures."""
    found = hashlib.sha256()
    for tensor in (*origin.model.state_dict().values(), material.train, material.held_out):
        found.update(tensor.cpu().contiguous().numpy())
    return found.hexdigest()


def _steps(lesson: Lesson, settings: Settings, seconds: float) -> int:
    """How many steps there is time for, after ``seconds`` of preparation."""
    steps = affordable_steps(lesson, settings.steps, settings.minutes * 60 - seconds)
    if steps < settings.steps:
        tqdm.write(f"{steps} of {settings.steps} steps fit into {settings.minutes:g} minutes; --minutes gives it more")
    return steps


def _teach(lesson: Lesson, steps: int, out: Path, resuming: bool) -> signal.Signals | None:
    """Distils, and tidies up where that comes to nothing; returns the signal that stopped it."""
    try:
        stopped = imitate(lesson, steps, out, resuming)
    except ConversionError:
        abandon(out)
        raise
    if stopped is not None:
        print(f"stopped; the state is saved, go on with --resume: {out}")
    return stopped


def _describe(
    settings: Settings,
    origin: Origin,
    lesson: Lesson,
    yardstick: Yardstick,
    stages: _Stages,
    steps: int,
) -> Checkpoint:
    material = yardstick.material
    evaluation = None
    if material.labels is not None:
        probabilities = softmax(yardstick.logits(lesson.student).numpy())
        metrics = classification_metrics(probabilities, material.labels)
        evaluation = Evaluation(dataset=material.name, images=len(material.labels), metrics=metrics)
    recipe = {
        CONVERTED_FROM: f"{origin.architecture} ({origin.weights_from})",
        **({"data": {"uri": settings.images}} if evaluation else {}),
        "settings": {**settings.model_dump(mode="json"), "batch": lesson.batch, "lr": lesson.lr},
        "steps": steps,
        "held_out": material.name,
        "stages": [stage.model_dump() for stage in stages.found],
    }
    return Checkpoint(
        architecture="converted_vit",
        model_args=_model_args(origin, lesson.student, settings),
        labels=origin.labels,
        preprocessing=origin.preprocessing,
        recipe=recipe,
        evaluation=evaluation,
        epochs=steps * lesson.batch // len(material.train),
        versions=versions_of(_PACKAGES),
        commit=commit(),
    )


def _model_args(origin: Origin, student: SkipVisionTransformer, settings: Settings) -> dict[str, Any]:
    """What create_model("converted_vit", ...) needs to build the student again."""
    args = {"num_classes": student.num_classes, **origin.model_args}
    size = student.patch_embed.img_size
    if size is not None and not student.dynamic_img_size:
        args.setdefault("img_size", size[0] if size[0] == size[1] else list(size))
    return {"base": origin.architecture, "spec": str(student.spec), **args, **settings.choices}
