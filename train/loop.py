"""The training loop.

    every step: learning rate -> batch -> (augment, forward, backward) x accumulate -> clip -> AdamW -> average
    now and then: evaluate the average; write a resume state

Everything random is seeded from the step (train/batches.py), so a run that is killed and resumed is the run that was
not: on a CPU with the same number of threads, bit for bit.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.metrics import classification_metrics
from train import build, resume
from train.augment import RANDOM_NUMBERS
from train.batches import Order, TrainingPictures, glyph_numbers, loader, seed_everything, seed_step
from train.distributed import Process, distribute, sync_gradients
from train.ema import Ema
from train.journal import Journal
from train.optim import adamw, clip_gradients, set_learning_rate, whole
from train.pictures import DataError, Dataset
from train.predict import predict
from train.prepare import BatchTransform
from train.recipe import Recipe, RecipeError
from train.schedule import learning_rate


class TrainingError(Exception):
    """Training cannot go on; the message says where it stands and what to try."""


@dataclass
class Trained:
    """What is left of a run. ``weights`` are whole tensors, on the leading process only."""

    finished: bool
    step: int
    epochs: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


def fit(recipe: Recipe, data: Dataset, out: Path, process: Process, resuming: bool) -> Trained:
    """Trains a recipe's model on ``data``; resume states and metrics.jsonl go to ``out``.

    SIGTERM and Ctrl-C end it after the current step with a resume state written; ``finished`` is then False.

    Raises:
        TrainingError: the loss is not finite.
        ResumeError, DataError, RecipeError, StrategyError: see there.
    """
    run, num_classes = recipe.run, len(data.classes)
    seed_everything(run.seed)  # the same first weights on every process
    model = build.build_model(recipe, num_classes).to(process.device)
    parallel = distribute(model, run.strategy, process)
    optim = recipe.optim
    optimizer = adamw(model, optim.lr, optim.weight_decay, optim.betas, optim.eps)
    ema = Ema(model, optim.ema_decay) if optim.ema_decay else None
    state = resume.state_tensors(model, optimizer, ema)

    order = picture_order(recipe, len(data.train.labels), process)
    per_epoch, start = order.steps_per_epoch, resume.latest_step(out) if resuming else None
    total = recipe.schedule.epochs * per_epoch
    stop = min(run.steps, total) if run.steps else total
    if start is not None:
        resume.load_state(out, start, state, process)
        resume.set_optimizer_step(optimizer, start)
    start = start or 0

    order = Order(**{**vars(order), "start": start, "stop": stop})
    pictures = TrainingPictures(data.train, build.picture_transform(recipe), run.seed)
    batches = iter(loader(pictures, order, recipe.data.workers, pin=process.device.type == "cuda"))
    augment = build.batch_transform(recipe, num_classes)
    preprocessing = build.preprocessing_of(recipe.data)
    journal = Journal(out, start, stop, run.batch, run.tensorboard, quiet=not process.leads)
    metrics: dict[str, float] = {}

    def evaluate() -> dict[str, float]:
        with ema.in_place() if ema is not None else nullcontext():
            found = predict(
                parallel, data.held_out, preprocessing, process, run.batch // process.world, recipe.data.workers
            )
        return classification_metrics(*found)

    step = start
    with asked_to_stop() as signals:
        for step in range(start + 1, stop + 1):  # step counts finished steps at the end of its turn
            lr = rate(recipe, step - 1, total, per_epoch)
            set_learning_rate(optimizer, lr)
            ramp = min(1.0, step / max(1.0, recipe.augment.ramp_epochs * per_epoch))
            loss = backward(recipe, parallel, batches, augment, step - 1, ramp, process)
            norm = clip_gradients(model, optim.clip_norm)
            loss, stopping = process.mean(torch.tensor([loss, float(bool(signals))], device=process.device)).tolist()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise TrainingError(_not_finite(loss, norm, step, per_epoch, lr, resume.latest_step(out)))
            optimizer.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.update(step - 1)

            journal.step(loss)
            if step % run.log_every == 0:
                journal.log(step, step / per_epoch, loss=loss, lr=lr, grad_norm=norm)
            epoch, at_epoch_end = step // per_epoch, step % per_epoch == 0
            if step == stop or (at_epoch_end and epoch % run.evaluate_every == 0):
                metrics = evaluate()
                journal.evaluated(step, epoch, recipe.schedule.epochs, loss, metrics)
            if step == stop or stopping or (step % run.save_every == 0 if run.save_every else at_epoch_end):
                resume.save_state(out, step, state, process)
            if stopping and step < stop:
                journal.say(f"stopped after step {step} of {stop}; the state is saved, go on with --resume")
                break
    journal.close()
    finished = step == stop
    if finished and not metrics:  # resumed from the very last state
        metrics = evaluate()
    live = ema.shadow if ema is not None else model.state_dict()
    weights = {name: whole(tensor).detach().cpu() for name, tensor in live.items()} if finished else {}
    return Trained(finished, step, step // per_epoch, metrics, weights if process.leads else {})


def backward(
    recipe: Recipe,
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    augment: BatchTransform,
    step: int,
    ramp: float,
    process: Process,
) -> float:
    """Adds up the gradients of this process's share of one step's batch, in parts, and returns its mean loss."""
    run, total = recipe.run, 0.0
    share = run.batch // process.world
    part_size = share // run.accumulate
    u = glyph_numbers(run.seed, step, run.batch, RANDOM_NUMBERS)
    for part in range(run.accumulate):
        pixels, labels = next_batch(batches)
        seed_step(run.seed, step, part, process.rank)
        first = process.rank * share + part * part_size
        images, targets = augment(
            pixels.to(process.device, non_blocking=True),
            labels.to(process.device, non_blocking=True),
            u[first : first + part_size].to(process.device, non_blocking=True),
            ramp,
        )
        sync_gradients(model, wanted=part == run.accumulate - 1)
        with autocast(run.amp, process.device):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), targets) / run.accumulate
        loss.backward()
        total += loss.item()
    return total


def next_batch(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    try:
        return next(batches)
    except DataError as error:
        # A worker process's error arrives with its whole traceback for a message.
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("train.pictures.DataError: ")) from None


def picture_order(recipe: Recipe, pictures: int, process: Process) -> Order:
    """The order in which this process sees the training pictures.

    Raises:
        RecipeError: the batch is larger than the data, or cannot be shared out.
    """
    run = recipe.run
    if run.batch > pictures:
        raise RecipeError(f"run.batch = {run.batch} is more than the {pictures} training pictures; make it smaller")
    if run.batch % (process.world * run.accumulate):
        raise RecipeError(
            f"run.batch = {run.batch} must be a multiple of {process.world} processes x run.accumulate {run.accumulate}"
        )
    return Order(
        pictures,
        run.batch,
        run.seed,
        repeats=recipe.data.repeats,
        rank=process.rank,
        world=process.world,
        accumulate=run.accumulate,
    )


def rate(recipe: Recipe, step: int, total: int, per_epoch: int) -> float:
    """Learning rate of a step, counted from 0."""
    schedule = recipe.schedule
    warmup = round(schedule.warmup_epochs * per_epoch)
    return learning_rate(step, total, recipe.optim.lr, warmup, schedule.warmup_lr, schedule.min_lr)


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """bf16 where asked for; ``auto`` is on GPUs only, since on CPUs without AMX it is several times slower."""
    wanted = amp == "bf16" or (amp == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or Ctrl-C comes; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _not_finite(loss: float, norm: float, step: int, per_epoch: int, lr: float, saved: int | None) -> str:
    way_back = f"; --resume goes back to step {saved}" if saved is not None else ""
    return (
        f"loss is {loss:g} and gradient norm {norm:g} in step {step} (epoch {step / per_epoch:.1f}, lr {lr:.2e}); "
        f"lower optim.lr, warm up longer, or set optim.clip_norm{way_back}"
    )
