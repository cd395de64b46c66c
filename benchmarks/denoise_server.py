"""What a denoising server holds and how long it keeps others waiting: one large photograph, then many of random sizes.

The large one gives the peak of the server's memory; while it is being restored, a second client sends pictures of one
tile and times their answers, beside the same requests to the idle server. Then pictures of random sizes come one after
the other, and the server's memory is read after each.
"""

import io
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.servers import cpu_seconds, free_ports, rss_mb, server
from skipvit.artifacts import model_names, read_entry

PACKAGES = ("onnxruntime", "pillow", "numpy", "uvicorn")
_IDLE_REQUESTS = 15
_SETTLED_AFTER = 10  # pictures, until every buffer has been used once
_WITHIN_S = 1800.0


def measure(models: Path, name: str | None, megapixels: float, pictures: int, largest: int) -> list[dict[str, object]]:
    """One row: the large photograph of so many megapixels, and ``pictures`` with sides of up to ``largest`` pixels."""
    name = name or _first_denoiser(models)
    tiling = read_entry(models, name).tiling
    big = photograph(round((megapixels * 1.5e6) ** 0.5), round((megapixels / 1.5 * 1e6) ** 0.5))
    small = photograph(tiling.tile * 3 // 4, tiling.tile * 3 // 4)
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/v1/denoise?model={name}"
    with server([sys.executable, "-m", "serve", str(models), "--port", str(port)], port) as pid:
        warm = rss_mb(pid)
        idle = [_timed(url, small)[0] for _ in range(_IDLE_REQUESTS)]
        cpu = cpu_seconds(pid)
        (seconds, tiles), busy = _while_running(lambda: _timed(url, big), lambda: _timed(url, small)[0])
        cpu = cpu_seconds(pid) - cpu
        peak = peak_rss_mb(pid)
        levels = _rss_of_many(url, pid, pictures, largest)
    settled = levels[min(_SETTLED_AFTER, len(levels)) - 1]
    return [
        {
            "model": name,
            "tile": tiling.tile,
            "halo": tiling.halo,
            "megapixels": megapixels,
            "tiles": tiles,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "warm_rss_mb": round(warm),
            "peak_rss_mb": round(peak),
            "small_idle_p50_ms": _ms(statistics.median(idle)),
            "small_busy_p50_ms": _ms(statistics.median(busy)),
            "small_busy_worst_ms": _ms(max(busy)),
            "small_busy_requests": len(busy),
            "slowdown_p50": round(statistics.median(busy) / statistics.median(idle), 2),
            "slowdown_worst": round(max(busy) / statistics.median(idle), 2),
            "pictures": pictures,
            "rss_after_10_mb": round(settled),
            "rss_after_all_mb": round(levels[-1]),
            "rss_highest_after_10_mb": round(max(levels[min(_SETTLED_AFTER, len(levels)) - 1 :])),
        }
    ]


def photograph(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG of smooth colours with noise of sigma 25 over them, made in strips; the same every time."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    for top in range(0, height, 256):
        box = (0, top, width, min(top + 256, height))
        clean = np.asarray(image.crop(box), np.float32)
        noisy = clean + 25 * rng.standard_normal(clean.shape, np.float32)
        image.paste(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), (0, top))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def peak_rss_mb(pid: int) -> float:
    """The most memory that a process ever held, in megabytes (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("this system does not say how much memory a process held at most; measure on Linux")


def _first_denoiser(models: Path) -> str:
    for name in model_names(models):
        if read_entry(models, name).manifest.task == "denoising":
            return name
    raise RuntimeError(f"{models} holds no denoiser; run `make demo` or give another folder with --models")


def _timed(url: str, body: bytes) -> tuple[float, int]:
    """Seconds until the whole answer was there, and the tiles it took. JPEG in, JPEG out, as a camera's user would."""
    headers = {"Content-Type": "image/jpeg", "Accept": "image/jpeg"}
    request = urllib.request.Request(url, body, headers)
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=_WITHIN_S) as answer:
        answer.read()
        return time.perf_counter() - start, int(answer.headers["X-Skipvit-Tiles"])


def _while_running(
    first: Callable[[], tuple[float, int]], second: Callable[[], float]
) -> tuple[tuple[float, int], list[float]]:
    """Runs ``first`` once and ``second`` again and again as long as it takes; returns what both gave."""
    results: list[tuple[float, int]] = []
    thread = threading.Thread(target=lambda: results.append(first()))
    thread.start()
    times: list[float] = []
    while thread.is_alive():
        times.append(second())
        time.sleep(times[-1] / 2)  # a client that pauses, so that the large picture has most of the machine
    if not results:
        raise RuntimeError("the large photograph was not answered; see the message above")
    return results[0], times[1:-1] or times  # the first and the last may have met a server that still read or wrote


def _rss_of_many(url: str, pid: int, pictures: int, largest: int) -> list[float]:
    rng = np.random.default_rng(1)
    levels = []
    for k in tqdm(range(pictures), desc="pictures of random sizes", unit="picture", leave=False):
        width, height = (int(size) for size in np.exp(rng.uniform(np.log(16), np.log(largest), 2)))
        _timed(url, photograph(width, height, k))
        levels.append(rss_mb(pid))
    return levels


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)
