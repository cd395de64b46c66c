"""The training loop.

    every step: learning rate, λ -> batch -> (prepare, forward, backward) x accumulate -> clip -> AdamW -> average
    now and then: evaluate the average; write a resume state
    once, where [guide] is: λ reaches 1, and the plain static model takes the guided one's place

Everything random is seeded from the step (train/batches.py), so a run that is killed and resumed is the run that was
not: on a CPU with the same number of threads, bit for bit.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from train import resume
from train.batches import seed_step
from train.distributed import sync_gradients
from train.journal import Journal
from train.optim import clip_gradients, set_learning_rate
from train.recipe import Recipe
from train.schedule import learning_rate
from train.task import Place
from train.training import Training


class TrainingError(Exception):
    """Training cannot go on; the message says where it stands and what to try."""


@dataclass
class Trained:
    """What is left of a run. ``weights`` are whole tensors, on the leading process only; none if it was stopped."""

    stopped_by: signal.Signals | None
    step: int
    epochs: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


def fit(training: Training, out: Path, resuming: bool) -> Trained:
    """Trains; resume states and metrics.jsonl go to the folder ``out``.

    SIGTERM and Ctrl-C end it after the current step, with a resume state written.

    Raises:
        TrainingError: the loss is not finite.
        ResumeError: there is a state to go on from, but it cannot be used.
        DataError: a picture cannot be decoded.
    """
    recipe, run, process = training.recipe, training.recipe.run, training.process
    per_epoch, total = training.order.steps_per_epoch, training.total
    stop = min(run.steps or total, total)
    start = resume.latest_step(out) or 0 if resuming else 0
    training.set_guide(start)  # a state from where λ is 1 holds no dynamic branch
    if start:
        resume.load_state(out, start, training.tensors(), process)
        resume.set_optimizer_step(training.optimizer, start)

    parts, step, metrics = training.parts(start, stop), start, dict[str, float]()
    with (
        Journal(out, start, stop, run.batch, run.tensorboard, not process.leads) as journal,
        asked_to_stop() as signals,
    ):
        for step in range(start + 1, stop + 1):  # at the end of its turn, ``step`` steps are done
            lr = rate(recipe, step - 1, total, per_epoch)
            strength = training.set_guide(step - 1)
            set_learning_rate(training.optimizer, lr)
            loss = backward(training, parts, step - 1)
            norm = clip_gradients(training.model, recipe.optim.clip_norm)
            loss, stopping = process.mean(torch.tensor([loss, float(bool(signals))], device=process.device)).tolist()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise TrainingError(_not_finite(loss, norm, step, per_epoch, lr))
            training.optimizer.step()
            training.optimizer.zero_grad()
            if training.ema is not None:
                training.ema.update(step - 1)

            journal.step(loss)
            if step % run.log_every == 0:
                guide = {"guide": strength, "guide_kl": training.guide_divergence()} if training.guided else {}
                journal.log(step, step / per_epoch, loss=loss, lr=lr, grad_norm=norm, **guide)
            epoch, at_epoch_end = step // per_epoch, step % per_epoch == 0
            if step == stop or (at_epoch_end and epoch % run.evaluate_every == 0):
                metrics = training.evaluate()
                journal.evaluated(step, epoch, recipe.schedule.epochs, loss, metrics, training.task.headline(metrics))
            if step == stop or stopping or (step % run.save_every == 0 if run.save_every else at_epoch_end):
                resume.save_state(out, step, training.tensors(), process)
            if stopping and step < stop:
                journal.say(f"stopped after step {step} of {stop}; the state is saved, go on with --resume")
                break
    if step < stop:
        # another process may have got the signal; to this one it is as if it had been told to stop in good time
        return Trained(signal.Signals(signals[0]) if signals else signal.SIGTERM, step, step // per_epoch, metrics, {})
    return Trained(None, step, step // per_epoch, metrics or training.evaluate(), training.weights())


def backward(training: Training, parts: Iterator[tuple[Tensor, Tensor]], step: int) -> float:
    """Adds up the gradients of this process's share of one step's batch, in parts, and returns its mean loss."""
    recipe, process, total = training.recipe, training.process, 0.0
    share = recipe.run.batch // process.world
    part_size = share // recipe.run.accumulate
    for part in range(recipe.run.accumulate):
        first, second = next(parts)
        seed_step(recipe.run.seed, step, part, process.rank)
        low = process.rank * share + part * part_size
        place = Place(step, training.order.steps_per_epoch, slice(low, low + part_size))
        inputs, targets = training.task.prepare(first, second, place)
        sync_gradients(training.parallel, wanted=part == recipe.run.accumulate - 1)
        with autocast(recipe.run.amp, process.device):
            outputs = training.parallel(inputs)
            loss = training.loss(inputs, outputs, targets) / recipe.run.accumulate
        loss.backward()
        total += loss.item()
    return total


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
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _not_finite(loss: float, norm: float, step: int, per_epoch: int, lr: float) -> str:
    return (
        f"loss is {loss:g} and gradient norm {norm:g} in step {step} (epoch {step / per_epoch:.1f}, lr {lr:.2e}); "
        "start again in another --out with a lower optim.lr, a longer warm-up, or optim.clip_norm"
    )
