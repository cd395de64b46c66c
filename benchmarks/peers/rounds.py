"""The turns of the comparison with other servers: start one, ask it, stop it, go on to the next."""

import argparse
import itertools
import json
import math
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks.peers.comparison import BODY, FORM, PEERS
from benchmarks.peers.environment import NoEnvironment, python_of_peers
from benchmarks.servers import (
    cpu_seconds,
    form_and_body,
    free_ports,
    photo,
    row_of,
    rss_mb,
    run_load,
    server,
    write_mini_model,
)
from serve.settings import available_cpus
from skipvit.client.load import Measurement

_READY_WITHIN_S = 180.0
_WARM_UP_S = 1.5
_SAME_WITHIN = 1e-5
_MODULES = dict(
    zip(PEERS, ("plain_server", "peers.litserve_server", "peers.bentoml_server", "peers.ray_server"), strict=True)
)


@dataclass
class Candidate:
    """A server to be measured, what it is asked, and what was found so far."""

    name: str
    command: list[str]
    request: bytes
    turns: dict[int, list[tuple[Measurement, float]]] = field(default_factory=dict)
    client_cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    rss_mb: float = 0.0
    note: str = ""


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of every server and number of clients; arguments as of benchmarks.peers.comparison."""
    with TemporaryDirectory() as scratch:
        models = write_mini_model(Path(scratch) / "models")
        picture = photo()
        candidates = list(_candidates(models, picture, arguments))
        expected = _likeliest_of(models, picture)
        turns = list(_in_turns(candidates, arguments.rounds))
        for candidate in tqdm(turns, desc="peers", unit="turn", leave=False):
            if not candidate.note:
                _turn(candidate, picture, expected, arguments)
    return [row for candidate in candidates for row in _rows(candidate, arguments.clients)]


def _candidates(models: Path, picture: bytes, arguments: argparse.Namespace) -> Iterator[Candidate]:
    form, body = form_and_body(picture)
    note = ""
    python: Path | None = arguments.python
    if python is None and set(arguments.only) & set(PEERS[1:]):
        try:
            python = python_of_peers()
        except NoEnvironment as error:
            note = f"its environment could not be made: {error}"
    for name in (name for name in PEERS if name in arguments.only):
        interpreter = sys.executable if name == PEERS[0] else str(python)
        for workers in sorted({1, available_cpus()}):
            command = [interpreter, "-m", f"benchmarks.{_MODULES[name]}", str(models), "PORT", str(workers)]
            label = f"{name}, {workers} worker{'s' if workers > 1 else ''}"
            yield Candidate(label, command, form, note="" if name == PEERS[0] else note)
    if "skipvit" in arguments.only:
        ours = [sys.executable, "-m", "serve", str(models), "--port", "PORT"]
        yield Candidate(FORM, ours, form)
        yield Candidate(BODY, ours, body)
        # What the server alone brings: its pictures are then resized as the peers' are.
        by_pillow = ["env", "SKIPVIT_RESAMPLING=pillow", *ours]
        yield Candidate(f"{FORM}, resized by Pillow", by_pillow, form)
        yield Candidate(f"{BODY}, resized by Pillow", by_pillow, body)
        if (cpus := available_cpus()) > 1:
            fronts = [*ours, "--fronts", str(cpus)]
            yield Candidate(f"{FORM}, {cpus} fronts", fronts, form)
            yield Candidate(f"{BODY}, {cpus} fronts", fronts, body)


def _in_turns(candidates: list[Candidate], rounds: int) -> Iterator[Candidate]:
    for number in range(rounds):
        first = number % len(candidates)
        yield from itertools.chain(candidates[first:], candidates[:first])


def _turn(candidate: Candidate, picture: bytes, expected: float, arguments: argparse.Namespace) -> None:
    """One turn of a server, from its start to its end; what goes wrong becomes its note."""
    [port] = free_ports(1)
    command = [str(port) if word == "PORT" else word for word in candidate.command]
    try:
        with server(command, port, _READY_WITHIN_S) as pid:
            found = _likeliest(f"http://127.0.0.1:{port}/v1/classify", picture)
            if not math.isclose(found, expected, abs_tol=_SAME_WITHIN):
                raise RuntimeError(f"it answers {found} where the model says {expected}")
            run_load(port, candidate.request, max(arguments.clients), _WARM_UP_S)
            for clients in arguments.clients:
                before, own = cpu_seconds(pid), time.process_time()
                load = run_load(port, candidate.request, clients, arguments.seconds)
                own = (time.process_time() - own) * 1e3 / max(1, load.outcomes.total())
                candidate.turns.setdefault(clients, []).append((load, cpu_seconds(pid) - before))
                candidate.client_cpu_ms.setdefault(clients, []).append(own)
            candidate.rss_mb = max(candidate.rss_mb, rss_mb(pid))
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        candidate.note = " ".join(str(error).split())[-300:] or type(error).__name__


def _rows(candidate: Candidate, clients: list[int]) -> Iterator[dict[str, object]]:
    for count in clients:
        found = candidate.turns.get(count, [])
        # Without an answer there is no latency to speak of.
        measured = found or [(Measurement(), 0.0)]
        row = row_of(candidate.name, count, measured, candidate.rss_mb)
        own = sorted(candidate.client_cpu_ms.get(count, [0.0]))
        yield {
            **row,
            "rounds": len(found),
            "client_cpu_ms_per_request": round(own[len(own) // 2], 2),
            "note": candidate.note or ("" if found else "it was never started"),
        }


def _likeliest_of(models: Path, picture: bytes) -> float:
    from benchmarks.peers.classifier import Classifier

    classifier = Classifier(models)
    return float(classifier.probabilities([classifier.decode(picture)])[0].max())


def _likeliest(url: str, picture: bytes) -> float:
    """The probability of the class that a server finds likeliest."""
    form = httpx.Request("POST", url, files={"file": ("photo.jpg", picture, "image/jpeg")})
    request = urllib.request.Request(url, form.read(), dict(form.headers))
    with urllib.request.urlopen(request, timeout=60) as answer:
        said: Any = json.loads(answer.read())
    results = said if isinstance(said, list) else said.get("results", [said])
    return float(results[0]["predictions"][0]["probability"])
