"""Compiles models ahead of their timing, several at a time: torch keeps compiled code on disk and takes it from there.

torch.compile works on one core for most of half a minute a model, and a GPU is lent by the minute.
"""

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import gpu_models
from benchmarks.gpu_models import Key, Setting


def compile_ahead(
    settings: Sequence[Setting],
    families: Collection[str],
    forms: Collection[str],
    device: torch.device,
    mode: str,
    jobs: int,
    seconds: float,
) -> int:
    """Compiles the models of ``settings`` in ``jobs`` processes, in their order, and gives how many were compiled.

    Nothing new begins after ``seconds``. A failure is told and otherwise left to the timing, which meets it again.
    """
    tasks = [(setting, key) for setting in settings for key in gpu_models.keys(families, forms)]
    folder = _cache_folder()
    end, done = time.monotonic() + seconds, 0
    # The key of compiled code has the first loaded module in it that knows torch: torch must be that, here and there.
    start: dict[str, Any] = {"initializer": importlib.import_module, "initargs": ("torch",)}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), **start) as pool:
        futures: list[Future[None]] = [pool.submit(_compile, setting, key, device, mode) for setting, key in tasks]
        bar = tqdm(tasks, desc="compiling ahead", unit="model", leave=False)
        for (setting, key), future in zip(bar, futures, strict=True):
            try:
                error = future.exception(timeout=max(0.0, end - time.monotonic()))
            except TimeoutError:
                pool.shutdown(wait=True, cancel_futures=True)
                break
            done += error is None
            if error is not None:
                print(f"compiling {setting}, {key[0]} by {key[1]}, ahead failed: {error!r:.300}", file=sys.stderr)
    # What was tried out in a crowd says nothing: timing tries again, with the GPU to itself.
    for tuned in folder.rglob("*.best_config"):
        tuned.unlink()
    return done


def _cache_folder() -> Path:
    """Where torch keeps compiled code, for this process and for those that it starts."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache_dir()))


def _compile(setting: Setting, key: Key, device: torch.device, mode: str) -> None:
    torch._inductor.config.compile_threads = 1  # there are enough processes
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as GpuClock has it
    if device.type == "cpu":
        torch.set_num_threads(1)
    with torch.inference_mode():
        gpu_models.ready(key, setting, gpu_models.images_of(setting, device), mode)()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
