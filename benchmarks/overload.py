"""Ten times what a server can do, for a minute: what is admitted stays fast, what is not is told so, nothing breaks.

The same machine sends and serves, so the load takes some of the cores that the server had alone at its peak, and so do
refusals, of which there are nine for a picture: two models show what both are worth beside a picture of 100 or 350 ms.

A machine that is shared with others may be a third faster or slower a minute later: the same process is measured at its
peak before each overload and after it, and goodput is compared with the mean of both. Of goodput the median over the
rounds is judged; of latency, errors, silence and memory every round.
"""

import argparse
import random
import statistics
import sys
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

if TYPE_CHECKING:
    import httpx

    from skipvit.client.load import Measurement

PACKAGES = ("uvicorn", "onnxruntime", "pillow", "numpy")
_TIMES = 10
# Of the latency alone: the rest of the three times that are allowed is for what differs from picture to picture.
_TARGET_TIMES = 1.5
_WARM_UP_S = 3.0
_TIMEOUT_S = 20.0
_SIDE = 224
_MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
_PEAK = "peak"  # how the names of its phases begin: older files have "peak before"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    add = parser.add_argument
    add("--rounds", type=whole(1), default=3, help="overloads, with a peak before and after each (default: 3)")
    add("--seconds", type=whole(1), default=60, help="of each overload (default: 60)")
    add("--measured", type=whole(1), default=15, help="seconds for the latency alone, and each peak (default: 15)")
    add("--models", nargs="+", default=_MODELS, metavar="NAME",
        help=f"with random weights, one after the other (default: {' '.join(_MODELS)})")  # fmt: skip
    add("--model-arg", action="append", default=[], metavar="KEY=VALUE", help="of the models' constructor")
    add("--clients", type=whole(1), default=4, help="of the closed loop that finds the peak (default: 4)")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Of each model, rows of a client alone, the peak of a closed loop, and each overload and the peak after it."""
    return [row for model in arguments.models for row in _measure(model, arguments)]


def _measure(model: str, arguments: argparse.Namespace) -> list[dict[str, object]]:
    from benchmarks.servers import free_ports, server
    from export.to_onnx import main as to_onnx

    with TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        given = [f"--model-arg={pair}" for pair in arguments.model_arg]
        if to_onnx([model, "--name", "heavy", "--out", str(models), *given]) != 0:
            raise RuntimeError("the benchmark's model could not be exported; see the message above")
        [port] = free_ports(1)
        command = [sys.executable, "-m", "serve", str(models), "--port", str(port)]
        warm_up_s = min(_WARM_UP_S, arguments.measured)
        with server(command, port) as pid:
            _closed(port, pid, "warm-up", arguments.clients, warm_up_s)
            alone = _closed(port, pid, "alone", 1, arguments.measured)
        target_ms = max(1, round(_TARGET_TIMES * alone.p99_ms))
        with server([*command, "--target-ms", str(target_ms)], port) as pid:
            _closed(port, pid, "warm-up", arguments.clients, warm_up_s)
            phases = [alone, _peak(port, pid, arguments)]
            for _ in range(arguments.rounds):
                rate = _TIMES * phases[-1].answered_per_s
                phases.append(_open(port, pid, rate, arguments.seconds, warm_up_s))
                phases.append(_peak(port, pid, arguments))
    return [{"model": model, **phase.row(0 if phase is alone else target_ms)} for phase in phases]


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Zero server errors and timeouts, p99 <= 3 x that of a client alone, flat memory, goodput >= 95 % of the peak."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(str(row.get("model", _MODELS[0])), []).append(row)  # of which alone older rows are
    for model, phases in models.items():
        yield from _verdicts(model, phases)


def _verdicts(model: str, phases: Sequence[Row]) -> Iterable[Verdict]:
    [alone], overloads = ([row for row in phases if row["phase"] == phase] for phase in ("alone", "overload"))
    for what in ("server_errors", "no_answer"):
        count = sum(int(_number(row[what])) for row in overloads)
        yield Verdict(f"{what.replace('_', ' ')}, {model}", "0", str(count), count == 0)
    times = max(_number(row["p99_ms"]) for row in overloads) / _number(alone["p99_ms"])
    what = f"p99 of what was admitted, over a client's alone, {model}"
    yield Verdict(what, "<= 3", f"{times:.2f}", times <= 3)
    growth = max(_number(row["rss_growth_percent"]) for row in overloads)
    yield Verdict(f"growth of resident memory, {model}", "<= 5 %", f"{growth:.1f} %", growth <= 5)
    good = statistics.median(_goodputs(phases))
    rounds = f"median of {len(overloads)}, " if len(overloads) > 1 else ""
    what = f"goodput of the mean of the peaks before and after, {rounds}{model}"
    yield Verdict(what, ">= 95 %", f"{100 * good:.1f} %", good >= 0.95)


def _goodputs(phases: Sequence[Row]) -> Iterable[float]:
    """Of each overload, over the peaks that come just before and after it."""
    for place, row in enumerate(phases):
        if row["phase"] == "overload":
            beside = [phases[at] for at in (place - 1, place + 1) if at < len(phases)]
            peaks = [_number(peak["answered_per_s"]) for peak in beside if str(peak["phase"]).startswith(_PEAK)]
            yield _number(row["answered_per_s"]) / statistics.fmean(peaks)


def _number(value: object) -> float:
    return float(str(value))


@dataclass
class _Phase:
    """What a load found, and what it took of the cores on both sides."""

    phase: str
    clients: int = 0
    offered_per_s: float = 0.0
    answered_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    server_cpu_s: float = 0.0
    load_cpu_s: float = 0.0
    rss_mb: list[float] = field(default_factory=list)

    def row(self, target_ms: int) -> dict[str, object]:
        errors = sum(count for status, count in self.outcomes.items() if status[0] == "5")
        other = sum(count for status, count in self.outcomes.items() if not status.isdigit())
        return {
            "phase": self.phase,
            "clients": self.clients,
            "target_ms": target_ms,
            "seconds": round(self.seconds, 1),
            "offered_per_s": round(self.offered_per_s, 1),
            "answered_per_s": round(self.answered_per_s, 2),
            "refused_per_s": round(self.outcomes.get("429", 0) / self.seconds, 1),
            "server_errors": errors,
            "no_answer": other,
            "p50_ms": round(self.p50_ms, 1),
            "p99_ms": round(self.p99_ms, 1),
            "server_cores": round(self.server_cpu_s / self.seconds, 2),
            "load_cores": round(self.load_cpu_s / self.seconds, 2),
            "rss_mb": round(self.rss_mb[-1]),
            "rss_growth_percent": round(self._growth(), 1),
        }

    def _growth(self) -> float:
        """From the end of the first quarter, when all buffers that are kept have been made, to the end."""
        start = max(self.rss_mb[: len(self.rss_mb) // 4 + 1])
        return 100 * (self.rss_mb[-1] / start - 1)


def _closed(port: int, pid: int, phase: str, clients: int, seconds: float) -> _Phase:
    from skipvit.client.http_exchange import HttpExchange
    from skipvit.client.load import Plan, closed_loop

    url, request = _target(port)
    found = _Phase(phase, clients)
    _watched(found, pid, closed_loop(lambda: HttpExchange(url, None), [request], clients, Plan(seconds)), seconds)
    found.offered_per_s = found.answered_per_s
    return found


def _peak(port: int, pid: int, arguments: argparse.Namespace) -> _Phase:
    found = _closed(port, pid, _PEAK, arguments.clients, arguments.measured)
    if set(found.outcomes) != {"200"}:  # who is refused asks again at once, and what that costs would be missing
        raise RuntimeError(f"the {found.phase} is none, not all was answered: {found.outcomes}; use fewer --clients")
    return found


def _open(port: int, pid: int, rate: float, seconds: float, warm_up_s: float) -> _Phase:
    from skipvit.client.http_exchange import HttpExchange
    from skipvit.client.load import Plan, open_loop, poisson_arrivals

    url, request = _target(port)
    found = _Phase("overload", offered_per_s=rate)
    # The first seconds are the server's to find out how fast it is at full load.
    plan = Plan(seconds, warm_up_s, _TIMEOUT_S)
    arrivals = poisson_arrivals(rate, warm_up_s + seconds, random.Random(0))
    _watched(found, pid, open_loop(lambda: HttpExchange(url, None), [request], arrivals, plan), warm_up_s + seconds)
    return found


def _target(port: int) -> tuple["httpx.URL", bytes]:
    import httpx

    from skipvit.client.bench import made_up_picture
    from skipvit.client.http_exchange import request_bytes

    url = f"http://127.0.0.1:{port}"
    headers = {"Content-Type": "image/jpeg"}
    picture = made_up_picture(_SIDE, _SIDE)
    return httpx.URL(url), request_bytes(httpx.Request("POST", f"{url}/v1/classify", content=picture, headers=headers))


def _watched(found: _Phase, pid: int, load: "Coroutine[Any, Any, Measurement]", seconds: float) -> None:
    """Runs a load and fills in what it found, with the server's memory each half second."""
    from tqdm import tqdm

    from benchmarks.servers import cpu_seconds, rss_mb
    from skipvit.client import event_loop
    from skipvit.client.load import percentiles

    over = threading.Event()

    def look() -> None:
        with tqdm(total=round(2 * seconds), desc=found.phase, unit="", leave=False) as bar:
            while not over.wait(0.5):
                found.rss_mb.append(rss_mb(pid))
                bar.update()

    watcher = threading.Thread(target=look)
    watcher.start()
    begun, server_s, load_s = time.monotonic(), cpu_seconds(pid), time.process_time()
    try:
        measured = event_loop.run(load)
    finally:
        over.set()
        watcher.join()
    found.rss_mb.append(rss_mb(pid))
    share = measured.seconds / (time.monotonic() - begun)
    found.server_cpu_s = (cpu_seconds(pid) - server_s) * share
    found.load_cpu_s = (time.process_time() - load_s) * share
    found.seconds = measured.seconds
    found.outcomes = dict(measured.outcomes)
    found.answered_per_s = measured.requests_per_s
    found.p50_ms, found.p99_ms = (1e3 * value for value in percentiles(measured.latencies_s, [50, 99]))
