"""Forms of a model timed side by side, in CPU time of this process on one thread; a busy machine disturbs it little."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from benchmarks.turns import Key, in_turns
from export.graph import LOGITS
from skipvit.transforms import Pixels

Array = np.ndarray[Any, Any]
_MAX_DRIFT = 1e-3
_MAX_INT8_DRIFT = 0.25  # of the largest logit, of random weights on noise; another model is further away


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


def checked_drift(logits: Array, reference: Array, what: str, *, int8: bool = False) -> float:
    """Largest distance of a candidate's logits from PyTorch's, which may be more in int8.

    Raises:
        RuntimeError: it is too large; the figures would compare different things.
    """
    distance = float(np.abs(logits - reference).max())
    most = _MAX_INT8_DRIFT * float(np.abs(reference).max()) if int8 else _MAX_DRIFT
    if not distance <= most:
        raise RuntimeError(f"{what} is {distance:.1e} away from PyTorch; it is not the same model")
    return distance


def interleave(
    candidates: Mapping[Key, Candidate], pictures: Pixels, rounds: int, label: str
) -> dict[Key, list[float]]:
    """CPU milliseconds per image of each candidate, a value a round."""
    inputs = {key: candidate.prepare(pictures) for key, candidate in candidates.items()}

    def timed(key: Key) -> float:
        start = time.process_time()
        candidates[key].run(inputs[key])
        return (time.process_time() - start) * 1e3 / len(pictures)

    return in_turns({key: partial(timed, key) for key in candidates}, rounds, label)
