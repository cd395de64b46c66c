"""A thousand loads of the same models into one server: its memory must not grow."""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.proofs import Row, Verdict
from benchmarks.versions import export_first

PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "pillow", "numpy")
MOST_GROWTH_PERCENT = 5.0
_ROW_EVERY = 20
# The allocator's pools, and ONNX Runtime's, take their size in the course of the first loads.
_WARM_UP = 0.1
_COMPARED = 0.2  # of all rows, at the beginning after warm-up and at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loads", type=int, default=1000, help="load calls; default %(default)s")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """One row for every twenty loads: memory is their median, for it goes up and down with every load."""
    from benchmarks.servers import photo

    with TemporaryDirectory() as scratch:
        root = Path(scratch) / "models"
        export_first(root, "mini")
        return reload(root, "mini", photo(), arguments.loads)


def reload(root: Path, name: str, picture: bytes, loads: int) -> list[dict[str, object]]:
    """Has a server of its own load a classifier in ``root`` again and again, with a request after each load."""
    import httpx
    import psutil
    from tqdm import tqdm

    from benchmarks.servers import free_ports, rss_mb, server

    [port] = free_ports(1)
    command = [sys.executable, "-m", "serve", str(root), "--port", str(port), "--model-control", "explicit"]
    rows: list[dict[str, object]] = []
    with server(command, port) as pid, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        process = psutil.Process(pid)
        threads = process.num_threads()
        started = time.perf_counter()
        sizes: list[float] = []
        for count in tqdm(range(1, loads + 1), desc="reloads", unit="load", leave=False):
            client.post(f"/v2/repository/models/{name}/load").raise_for_status()
            headers = {"Content-Type": "image/jpeg"}
            client.post("/v1/classify", content=picture, headers=headers).raise_for_status()
            sizes.append(rss_mb(pid))
            if count % _ROW_EVERY == 0 or count == loads:
                rows.append(
                    {
                        "loads": count,
                        "rss_mb": round(statistics.median(sizes), 2),
                        "largest_rss_mb": round(max(sizes), 2),
                        "threads": process.num_threads(),
                        "threads_before": threads,
                        "files": process.num_fds(),
                        "seconds": round(time.perf_counter() - started, 1),
                    }
                )
                sizes.clear()
    return rows


def growth_percent(rows: Sequence[Row]) -> float:
    """How much more memory the last rows have than the first after warm-up, by the medians of their peaks.

    Between loads memory falls by a fifth whenever the allocator happens to give a block back, for stretches of a
    hundred loads: where such a stretch lies says nothing of growth, and the peaks do not have them.
    """
    sizes = [float(str(row["largest_rss_mb"])) for row in rows]
    warm = sizes[int(len(sizes) * _WARM_UP) :]
    compared = max(1, int(len(sizes) * _COMPARED))
    return (statistics.median(warm[-compared:]) / statistics.median(warm[:compared]) - 1) * 100


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """The issue's number: memory grows by at most 5 %."""
    growth = growth_percent(rows)
    found = f"{growth:+.1f} % over {rows[-1]['loads']} loads"
    yield Verdict(
        "growth of memory after warm-up", f"<= {MOST_GROWTH_PERCENT:g} %", found, growth <= MOST_GROWTH_PERCENT
    )
    first, last = int(str(rows[0]["files"])), int(str(rows[-1]["files"]))
    yield Verdict("open files, of first and last row", "no more", f"{first} and {last}", last <= first + 2)
