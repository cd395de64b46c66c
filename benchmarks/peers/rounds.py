"""The turns of the comparison with other servers: a peer and ours run together, and are asked one after the other.

While one is asked the others are paused: idle, a worker of LitServe takes a seventh of a core, and Ray Serve a twelfth.
"""

import argparse
import http.client
import json
import math
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.peers.blocks import Block, Candidate, Turn, blocks
from benchmarks.servers import (
    cpu_seconds,
    form_and_body,
    free_ports,
    photo,
    row_of,
    rss_mb,
    run_load,
    server,
    tree,
    write_mini_model,
)
from skipvit.client.load import Measurement

_READY_WITHIN_S = 180.0
_WARM_UP_S = 1.0
_PAUSE_S = 0.1
_SAME_WITHIN = 1e-5
_WENT_WRONG = (OSError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, psutil.Error,
               http.client.HTTPException)  # fmt: skip


class _GivenUp(Exception):
    """A block ends here; the candidate at fault has the reason as its note."""


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of every candidate and number of clients; arguments as of benchmarks.peers.comparison."""
    with TemporaryDirectory() as scratch:
        models = write_mini_model(Path(scratch) / "models")
        picture = photo()
        expected = _likeliest_of(models, picture)
        todo = list(blocks(models, *form_and_body(picture), arguments))
        turns = arguments.rounds * len(arguments.clients)
        with tqdm(total=turns * sum(len(block.candidates) for block in todo), unit="turn", leave=False) as bar:
            for block in todo:
                until = bar.n + turns * len(block.candidates)
                with suppress(_GivenUp), ExitStack() as running:
                    _start(block, running, expected, max(arguments.clients), bar)
                    _ask_in_turns(block, arguments, bar)
                bar.update(until - bar.n)
    return [row for block in todo for row in _rows(block, arguments.clients)]


@contextmanager
def _blaming(candidate: Candidate) -> Iterator[None]:
    """What goes wrong becomes the candidate's note and ends its block."""
    try:
        yield
    except _WENT_WRONG as error:
        candidate.note = " ".join(str(error).split())[-300:] or type(error).__name__
        raise _GivenUp from error


def _start(block: Block, running: ExitStack, expected: float, clients: int, bar: "tqdm[Any]") -> None:
    """Starts all servers of a block, checks every candidate's answer, and warms it up."""
    if block.peer.note:
        raise _GivenUp
    for candidate in block.candidates:
        found = candidate.server
        bar.set_description(f"starting {candidate.name}")
        with _blaming(candidate):
            if not found.pid:
                [found.port] = free_ports(1)
                command = [str(found.port) if word == "PORT" else word for word in found.command]
                found.pid = running.enter_context(server(command, found.port, _READY_WITHIN_S))
            likeliest = _likeliest(found.port, candidate.request)
            if not math.isclose(likeliest, expected, abs_tol=_SAME_WITHIN):
                raise RuntimeError(f"it answers {likeliest} where the model says {expected}")
            run_load(found.port, candidate.request, clients, _WARM_UP_S)


def _ask_in_turns(block: Block, arguments: argparse.Namespace, bar: "tqdm[Any]") -> None:
    for round_ in range(arguments.rounds):
        first = round_ % len(block.candidates)
        for clients in arguments.clients:
            for candidate in block.candidates[first:] + block.candidates[:first]:
                bar.set_description(f"{block.peer.name}: {candidate.name}, {clients} clients")
                with _blaming(candidate):
                    turn = _turn(block, candidate, clients, arguments.seconds)
                    candidate.turns.setdefault(clients, []).append(turn)
                bar.update()
                time.sleep(_PAUSE_S)
    for candidate in block.candidates:
        with _blaming(candidate):
            candidate.server.rss_mb = rss_mb(candidate.server.pid)


def _turn(block: Block, candidate: Candidate, clients: int, seconds: float) -> Turn:
    asked = candidate.server
    with _paused([each.pid for each in block.servers if each is not asked]):
        before, own = cpu_seconds(asked.pid), time.process_time()
        load = run_load(asked.port, candidate.request, clients, seconds)
        own = time.process_time() - own
        cpu = cpu_seconds(asked.pid) - before
    if not load.latencies_s:
        raise RuntimeError(f"of {load.outcomes.total()} requests none was answered: {dict(load.outcomes)}")
    return Turn(load, cpu, own)


@contextmanager
def _paused(pids: list[int]) -> Iterator[None]:
    """Process trees take no CPU within the block."""
    paused: list[psutil.Process] = []
    try:
        for pid in pids:
            for process in tree(pid):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
                    paused.append(process)
        yield
    finally:
        # Children first: a parent that wakes finds its children's signs of life.
        for process in reversed(paused):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _rows(block: Block, clients: list[int]) -> Iterator[dict[str, object]]:
    at_fault = next((candidate for candidate in block.candidates if candidate.note), None)
    for candidate in block.candidates:
        note = candidate.note or (f"not finished, because of {at_fault.name}" if at_fault else "")
        for count in clients:
            yield {"beside": block.peer.name, **_row(candidate, block.peer, count), "note": note}


def _row(candidate: Candidate, peer: Candidate, clients: int) -> dict[str, object]:
    found, theirs = (each.turns.get(clients, []) for each in (candidate, peer))
    # Without an answer there is no latency to speak of.
    measured = [(turn.load, turn.cpu_s) for turn in found] or [(Measurement(), 0.0)]
    # A block that was given up can have a turn more of the one than of the other.
    rates = [(mine.load.requests_per_s, other.load.requests_per_s) for mine, other in zip(found, theirs, strict=False)]
    times = [mine / other for mine, other in rates if other]
    own = [turn.client_cpu_s * 1e3 / turn.load.outcomes.total() for turn in found]
    return {
        **row_of(candidate.name, clients, measured, candidate.server.rss_mb),
        "times_the_peer": round(statistics.median(times), 3) if times else "",
        "rounds": len(found),
        "client_cpu_ms_per_request": round(statistics.median(own), 2) if own else "",
    }


def _likeliest_of(models: Path, picture: bytes) -> float:
    from benchmarks.peers.classifier import Classifier

    classifier = Classifier(models)
    return float(classifier.probabilities([classifier.decode(picture)])[0].max())


def _likeliest(port: int, request: bytes) -> float:
    """The probability of the class that a server finds likeliest, asked with the bytes that it is measured with."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"it answers {answer.status}: {body[:200]!r}")
    said: Any = json.loads(body)
    results = said if isinstance(said, list) else said.get("results", [said])
    return float(results[0]["predictions"][0]["probability"])
