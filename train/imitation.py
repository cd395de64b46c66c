"""Imitation: a converted model learns to answer as the original does, on pictures that need no label.

    loss = T² KL(softmax(t/T) ‖ softmax(s/T)) + ||f_s - f_t||² / ||f_t||²

t, s are the logits of the original (the teacher) and of the converted model (the student), f the normalised tokens
after the last block; where the student's tokens have shrunk, they are un-pooled to the teacher's grid. All weights of
the student learn. Both models are in eval mode, so that the same picture has the same answer.

Measured on the demo's digits, `static:0-1 skip:4-5 tokens:1/2@2`, 200 steps of 64, one seed, plain pictures: the
second term brings KL on held-out scans from 0.073 to 0.056; the same for the tokens of every block, 0.059.
400 steps of 32 on seed 1: learning the new parts alone ends at 93.1 % and KL 0.156, everything at 96.7 % and 0.081;
teaching the new parts alone first, by the tokens of every block, for 100 of the steps, at 96.4 % and 0.076.

Top-1 on 360 held-out scans after the program's 400 steps, the original's first; 34 to 55 s of CPU each:
    seed   original   skip:2-5   static:0-2   tokens:1/2@2,1/4@4   static:0-1 skip:4-5 tokens:1/2@2
    0      98.06      98.06      97.78        98.33                97.50
    1      97.78      98.61      98.06        98.33                97.22
    2      96.39      93.61      95.28        95.28                96.11
    mean   97.41      96.76      97.04        97.31                96.94
Φ has since started as in a model from scratch, with weights of standard deviation 0.02, and skip:2-5 ends at 98.61,
98.33 and 94.44. benchmarks/results/pareto_*.csv has the specs of the demo's family with another seed of the conversion:
the mean of three originals loses 0.6, 0 and 0.6 points to SkipAt, DGSSA and all three, and gains 0.4 from GLAD.
Before that, seed 2 once more: 800 steps give skip:2-5 93.61 again; T = 1 gives it 95.00, and static:0-2 96.11; mixing
the pictures of a batch gives skip:2-5 94.17. Of 360 scans, 3.6 are a point.
"""

import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from skipvit.models import SkipVisionTransformer
from skipvit.transforms import Preprocessing
from train import resume
from train.batches import Order
from train.conversion import ConversionError
from train.distributed import Process
from train.loop import asked_to_stop, autocast
from train.optim import adamw, clip_gradients, set_learning_rate, start_state
from train.prepare import normalise
from train.schedule import learning_rate
from train.teacher import Distillation
from train.variation import Variation

_TEMPERATURE = 2.0
_CLIP_NORM = 1.0
_BETAS = (0.9, 0.98)
_WARMUP = 0.1  # share of the steps
_SAVES = 8  # resume states over a whole distillation


@dataclass(frozen=True)
class Lesson:
    """Who learns what from whom. ``pixels`` (n, 3, H, W) uint8 stay on the CPU; 1 <= ``batch`` <= n."""

    teacher: nn.Module
    student: SkipVisionTransformer
    pixels: Tensor
    variation: Variation
    preprocessing: Preprocessing
    batch: int
    lr: float
    seed: int
    process: Process

    def order(self, start: int, stop: int) -> Order:
        return Order(len(self.pixels), self.batch, self.seed, start, stop)

    def loss(self, pictures: list[int], step: int) -> Tensor:
        """Of one batch of the step; keeps what its gradient needs."""
        device = self.process.device
        varied = self.variation(self.pixels[pictures].to(device), self.seed, step)
        images = normalise(varied, self.preprocessing.mean, self.preprocessing.std)
        with autocast("auto", device):
            with torch.no_grad():
                wanted = self.teacher.forward_features(images)  # type: ignore[operator]  # timm's
                wanted_logits = self.teacher.forward_head(wanted)  # type: ignore[operator]
            tokens, logits = answers(self.student, images)
        soft = Distillation(self.teacher, "soft", _TEMPERATURE, weight=1.0)
        return soft.distance(wanted_logits.float(), logits.float()) + distance(wanted.float(), tokens.float())


def answers(student: SkipVisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised tokens (B, N, C) on the grid of the picture, and logits (B, classes)."""
    features, last = student.forward_intermediates(
        images, indices=1, return_prefix_tokens=True, norm=True, output_fmt="NLC"
    )
    tokens = torch.cat(last[0][::-1], dim=1) if isinstance(last[0], tuple) else last[0]
    return tokens, student.forward_head(features)


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared distance of tokens (B, N, C), relative to the square of the teacher's: 0 where they are equal."""
    return (student - teacher).square().mean() / teacher.square().mean()


def affordable_steps(lesson: Lesson, steps: int, seconds: float) -> int:
    """How many of ``steps`` fit into so many seconds of wall time, at least one; timed on the first batches."""
    taken = 0.0
    for keys in lesson.order(0, min(2, steps)):  # the first also allocates
        start = time.perf_counter()
        lesson.loss([key.picture for key in keys], 0).backward()
        taken = time.perf_counter() - start
    lesson.student.zero_grad()
    return min(steps, max(1, int(seconds / max(taken, 1e-6))))


def imitate(lesson: Lesson, steps: int, out: Path, resuming: bool) -> signal.Signals | None:
    """Teaches the student in place, and leaves resume states in ``out``.

    SIGTERM and Ctrl-C end it after the current step, with a state written.

    Returns:
        The signal that stopped it, or None.

    Raises:
        ConversionError: the loss is not finite.
        ResumeError: there is a state to go on from, but it cannot be used.
    """
    optimizer = adamw(lesson.student, lesson.lr, 0.0, _BETAS, 1e-8)
    start_state(optimizer)
    state = resume.state_tensors(lesson.student, optimizer, None)
    start = resume.latest_step(out) or 0 if resuming else 0
    if start:
        resume.load_state(out, start, state, lesson.process)
        resume.set_optimizer_step(optimizer, start)
    every = max(1, steps // _SAVES)
    with (
        asked_to_stop() as signals,
        tqdm(total=steps, initial=start, desc="distilling", unit="step", leave=False, disable=None) as bar,
    ):
        for step, keys in enumerate(lesson.order(start, steps), start + 1):
            loss = _step(lesson, optimizer, [key.picture for key in keys], step - 1, steps)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            if signals or step == steps or step % every == 0:
                resume.save_state(out, step, state, lesson.process)
            if signals and step < steps:
                return signal.Signals(signals[0])
    return None


def _step(lesson: Lesson, optimizer: torch.optim.Optimizer, pictures: list[int], step: int, steps: int) -> float:
    warmup = max(1, round(_WARMUP * steps))
    set_learning_rate(optimizer, learning_rate(step, steps, lesson.lr, warmup))
    optimizer.zero_grad()
    loss = lesson.loss(pictures, step)
    loss.backward()
    norm = clip_gradients(lesson.student, _CLIP_NORM)
    if not math.isfinite(loss.item()) or not math.isfinite(norm):
        raise ConversionError(
            f"the loss is {loss.item():g} and the gradient's norm {norm:g} in step {step + 1} of {steps}; "
            "nothing was kept: try a lower --lr"
        )
    optimizer.step()
    return loss.item()
