"""Candidates timed side by side: every round runs each once, in an order that rotates, so that drift hits all alike.

Time is this process's CPU time on one thread, which a busy machine disturbs little. A ratio is the median over rounds
of baseline time over candidate time, paired within the round.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import torch
from torch import nn
from tqdm import tqdm

from export.graph import LOGITS
from skipvit.transforms import Pixels

Array = np.ndarray[Any, Any]
Key = TypeVar("Key", bound=Hashable)
_MAX_DRIFT = 1e-3


@dataclass(frozen=True)
class Candidate:
    """One form of a model: ``prepare`` makes its input from uint8 pictures, untimed; ``run`` gives its logits."""

    prepare: Callable[[Pixels], Array]
    run: Callable[[Array], Array]


def torch_run(model: nn.Module) -> Callable[[Array], Array]:
    """What a model gives for float32 images (B, 3, H, W), by PyTorch."""

    def run(images: Array) -> Array:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run


def onnx_run(model: str | bytes, output: str = LOGITS) -> Callable[[Array], Array]:
    """One output of a graph, a file's path or its bytes, by ONNX Runtime on one thread that does not spin."""
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run([output], {name: images})[0]


def logits_of(candidate: Candidate, pictures: Pixels) -> Array:
    """Logits (B, classes) of pictures (B, H, W, 3) uint8."""
    return candidate.run(candidate.prepare(pictures))


def checked_drift(logits: Array, reference: Array, what: str) -> float:
    """Largest distance of a candidate's logits from PyTorch's.

    Raises:
        RuntimeError: it is too large; the figures would compare different things.
    """
    distance = float(np.abs(logits - reference).max())
    if not distance <= _MAX_DRIFT:
        raise RuntimeError(f"{what} is {distance:.1e} away from PyTorch; it is not the same model")
    return distance


def interleave(
    candidates: Mapping[Key, Candidate], pictures: Pixels, rounds: int, label: str
) -> dict[Key, list[float]]:
    """CPU milliseconds per image of each candidate, a value a round."""
    times: dict[Key, list[float]] = {key: [] for key in candidates}
    inputs = {key: candidate.prepare(pictures) for key, candidate in candidates.items()}
    order = list(candidates)
    for round_ in tqdm(range(rounds), desc=label, unit="round", leave=False):
        turn = round_ % len(order)
        for key in order[turn:] + order[:turn]:
            start = time.process_time()
            candidates[key].run(inputs[key])
            times[key].append((time.process_time() - start) * 1e3 / len(pictures))
    return times


def speedup(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """Median over rounds of baseline time over candidate time."""
    return statistics.median(b / c for b, c in zip(baseline, candidate, strict=True))
