"""The ladder under a step of load: a group of five variants, asked for three times what the exact one can answer.

The variants are exported with random weights, of real and different cost. The exact one's capacity is measured first,
in the same set-up, by a closed loop that pins it. Then requests come in an open loop, as a Poisson process: little
load, the step, little load again. Each is counted in the half second in which it was sent, with its latency and who
answered.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.proofs import Row, Verdict

PACKAGES = ("onnxruntime", "pillow", "numpy", "uvicorn")
_VARIANTS = {  # name: architecture, pixels, precision
    "vit": ("vit_tiny_patch16_224", 224, "fp32"),
    "skipat": ("skipat_tiny_patch16_224", 224, "fp32"),
    "dgssa_glad": ("dgssa_glad_tiny_patch16_224", 224, "fp32"),
    "dgssa_glad_int8": ("dgssa_glad_tiny_patch16_224", 224, "int8"),
    "dgssa_glad_int8_128px": ("dgssa_glad_tiny_patch16_224", 128, "int8"),
}
_PICTURES = 64  # of noise, for int8: half to calibrate on, half to compare on
_GROUP = "any"
_WINDOW_S = 0.5
_STEP_FACTOR, _LITTLE = 3.0, 0.3  # of the exact variant's capacity
_SETTLED_S, _BACK_S = 3.0, 10.0  # issue's numbers: the objective holds from then on; the exact variant answers again
_CLIENTS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    add = parser.add_argument
    add("--seconds", type=float, default=30.0, help="length of the step (default: 30)")
    add("--rest-seconds", type=float, default=15.0, help="of little load before and after it (default: 15)")
    add("--capacity-seconds", type=float, default=8.0, help="of measuring the exact variant (default: 8)")
    add("--p99-ms", type=float, default=300.0, help="the group's objective (default: 300)")
    add("--exact-per-s", type=float, metavar="RATE", help="capacity of the exact variant, in place of measuring it")
    add("--models", type=Path, metavar="FOLDER", help="repository of classifiers, in place of exporting some")
    add("--variants", nargs="+", metavar="NAME", help="of that repository, the most exact first")
    add("--seed", type=int, default=0, help="of the arrivals (default: 0)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was sent, in seconds; how long its answer took; its status; and which variant answered."""

    sent: float
    latency_s: float
    status: str
    variant: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds of each phase, and requests a second in it: little load, the step, little load."""

    phases: tuple[tuple[float, float], ...]

    @property
    def ends(self) -> list[float]:
        """When each phase ends."""
        return list(accumulate(seconds for seconds, _ in self.phases))

    def arrivals(self, dice: random.Random) -> Iterator[float]:
        """Times at which requests are sent."""
        from skipvit.client.load import poisson_arrivals

        begin = 0.0
        for seconds, rate in self.phases:
            yield from (begin + time for time in poisson_arrivals(rate, seconds, dice))
            begin += seconds


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of half a second each, with the figures of the whole run in every one; draws the chart beside the CSV."""
    from benchmarks.ladder_chart import draw
    from benchmarks.rows import path_of
    from benchmarks.servers import free_ports, server
    from skipvit.client import event_loop

    with TemporaryDirectory() as scratch:
        models = arguments.models or Path(scratch) / "models"
        variants = arguments.variants or list(_VARIANTS)
        if not arguments.models:
            _export(models)
        config = Path(scratch) / "serve.toml"
        config.write_text(f"[groups.{_GROUP}]\nvariants = {variants}\np99_ms = {arguments.p99_ms}\n")
        [port] = free_ports(1)
        command = [sys.executable, "-m", "serve", str(models), "--port", str(port), "--config", str(config)]
        with server(command, port):
            capacity = arguments.exact_per_s or _capacity(port, arguments.capacity_seconds)
            rest = (arguments.rest_seconds, _LITTLE * capacity)
            schedule = Schedule((rest, (arguments.seconds, _STEP_FACTOR * capacity), rest))
            samples, late_s = event_loop.run(_load(port, schedule, arguments.seed))
    rows = rows_of(samples, schedule, variants, capacity, arguments.p99_ms, late_s)
    for picture in draw(rows, path_of("ladder", Path(arguments.out))):
        print(f"Written: {picture}")
    return rows


def _export(models: Path) -> None:
    from PIL import Image
    from tqdm import tqdm

    from export.to_onnx import main as to_onnx

    with TemporaryDirectory() as pictures:
        for number in range(_PICTURES):
            Image.effect_noise((224, 224), 60).save(Path(pictures, f"{number}.png"))
        # classes of random weights on noise are close calls, and say nothing of int8
        int8 = ["--images", pictures, "--min-agreement", "0"]
        for name, (architecture, pixels, precision) in tqdm(_VARIANTS.items(), "exporting", unit="model", leave=False):
            options = [f"--model-arg=img_size={pixels}", "--precision", precision]
            options += int8 if precision == "int8" else []
            if to_onnx([architecture, "--name", name, "--out", str(models), *options]) != 0:
                raise RuntimeError("a variant could not be exported; see the message above")


def _capacity(port: int, seconds: float) -> float:
    from benchmarks.servers import run_load

    print(f"ladder: {_CLIENTS} clients ask the exact variant for {seconds:g} s", file=sys.stderr)
    run_load(port, _request("exact"), _CLIENTS, 1.0)
    return run_load(port, _request("exact"), _CLIENTS, seconds).requests_per_s


def _request(variant: str | None = None) -> bytes:
    """Asks for a class of a 256 x 256 JPEG, whose decoding takes far less than any variant."""
    import httpx

    from skipvit.client.bench import made_up_picture
    from skipvit.client.http_exchange import request_bytes

    headers = {"Content-Type": "image/jpeg", **({"X-Skipvit-Variant": variant} if variant else {})}
    url = f"http://127.0.0.1/v1/classify?model={_GROUP}"
    return request_bytes(httpx.Request("POST", url, content=made_up_picture(256, 256), headers=headers))


async def _load(port: int, schedule: Schedule, seed: int) -> tuple[list[Sample], float]:
    import httpx
    from tqdm import tqdm

    from skipvit.client.asking import Done
    from skipvit.client.http_exchange import HttpExchange
    from skipvit.client.load import Plan, open_loop

    clock = asyncio.get_running_loop().time
    began, samples = clock(), []
    url = httpx.URL(f"http://127.0.0.1:{port}")

    class Watched(HttpExchange):
        sent: float | None = None  # of the request that is on its way

        def ask(self, request: bytes, done: Done) -> None:
            self.sent = clock()

            def note(answer: int | Exception) -> None:
                self.note(str(answer) if isinstance(answer, int) else "broken")
                done(answer)

            super().ask(request, note)

        def note(self, status: str) -> None:
            if self.sent is not None:
                variant = self.fields.get(b"x-skipvit-model", b"").strip().decode().partition("/")[0]
                sample = Sample(self.sent - began, clock() - self.sent, status, variant if status == "200" else "")
                samples.append(sample)
            self.sent = None

        def close(self) -> None:
            self.note("broken")  # its time was over
            super().close()

    total = schedule.ends[-1]
    with tqdm(desc="load", total=round(total), unit="s", leave=False) as bar:
        ticking = asyncio.create_task(_tick(bar))
        try:
            arrivals = schedule.arrivals(random.Random(seed))
            found = await open_loop(lambda: Watched(url, None), [_request()], arrivals, Plan(total))
        finally:
            ticking.cancel()
    return samples, found.late_s


async def _tick(bar: Any) -> None:
    while True:
        await asyncio.sleep(1.0)
        bar.update()


def rows_of(
    samples: Sequence[Sample],
    schedule: Schedule,
    variants: Sequence[str],
    capacity: float,
    p99_ms: float,
    late_s: float,
) -> list[dict[str, object]]:
    """A row for each half second, and in all of them what the whole run came to."""
    from skipvit.client.load import percentiles

    rested, stepped, ended = schedule.ends
    run = {
        "exact_per_s": round(capacity, 1),
        "objective_ms": p99_ms,
        "held_p99_ms": _ms(
            percentiles([s.latency_s for s in samples if rested + _SETTLED_S <= s.sent < stepped], [99])[0]
        ),
        "back_s": round(_back_s(samples, stepped, variants[0]), 2),
        "not_answered": sum(s.status != "200" for s in samples),
        "exact_before_percent": _percent(samples, rested, variants[0]),
        "generator_late_ms": _ms(late_s),
    }
    rows: list[dict[str, object]] = []
    for number in range(round(ended / _WINDOW_S)):
        begin = number * _WINDOW_S
        own = [s for s in samples if begin <= s.sent < begin + _WINDOW_S]
        p50, p99 = percentiles([s.latency_s for s in own if s.status == "200"], [50, 99])
        answered = Counter(s.variant for s in own if s.status == "200")
        rows.append(
            {
                "second": begin,
                "phase": "step" if rested <= begin < stepped else "rest",
                "requests": len(own),
                "p50_ms": _ms(p50),
                "p99_ms": _ms(p99),
                **{name: answered[name] for name in variants},
                **run,
            }
        )
    return rows


def _back_s(samples: Sequence[Sample], stepped: float, exact: str) -> float:
    """Seconds from the step's end to the first answer of the exact variant after the last of another's."""
    after = sorted((s for s in samples if s.sent >= stepped and s.status == "200"), key=lambda s: s.sent)
    others = [index for index, sample in enumerate(after) if sample.variant != exact]
    back = after[others[-1] + 1 :] if others else after
    return back[0].sent - stepped if back else float("inf")


def _percent(samples: Sequence[Sample], until: float, exact: str) -> float:
    own = [s.variant == exact for s in samples if s.sent < until and s.status == "200"]
    return round(100 * sum(own) / max(1, len(own)), 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Judges the rows of one run."""
    run = {name: float(str(rows[0][name])) for name in ("objective_ms", "held_p99_ms", "back_s", "not_answered")}
    factor = f"{_STEP_FACTOR:g} x {rows[0]['exact_per_s']} requests/s"
    held, objective = run["held_p99_ms"], run["objective_ms"]
    yield Verdict(
        f"p99 from {_SETTLED_S:g} s after a step to {factor}", f"<= {objective:g} ms", f"{held:g} ms", held <= objective
    )
    yield Verdict(
        "back at the exact variant after the load fell", f"<= {_BACK_S:g} s", f"{run['back_s']:g} s",
        run["back_s"] <= _BACK_S,
    )  # fmt: skip
    yield Verdict("requests without an answer", "0", f"{run['not_answered']:g}", run["not_answered"] == 0)
