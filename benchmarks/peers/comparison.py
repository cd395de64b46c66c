"""Ours beside LitServe, Ray Serve, BentoML and plain FastAPI: the same model, decoding and picture over HTTP.

One server runs at a time and has the machine to itself, with the load generator; their turns come round after round,
the order of each round moved on by one. Peers come once with one worker and once with a worker per CPU: the better of
the two is the one to beat. A peer that cannot be started has a row that says so, and is not counted as beaten.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "pillow", "numpy")
PEERS = ("plain FastAPI", "LitServe", "BentoML", "Ray Serve")
# Ours by the way a picture is sent. A row's name may go on after it, as "skipvit, form, 2 fronts".
FORM, BODY = "skipvit, form", "skipvit, raw body"
ALONE, CROWD = 1, 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    add = parser.add_argument
    add("--seconds", type=float, default=6.0, help="of load in one turn of each number of clients (default: 6)")
    add("--rounds", type=whole(1), default=3, help="turns of every server (default: 3)")
    add("--clients", nargs="+", type=whole(1), default=[ALONE, CROWD], help="verdicts need 1 and 32 (default: 1 32)")
    add("--python", type=Path, metavar="PATH",
        help="interpreter that has benchmarks/peers/requirements.txt; without it, an environment is made in the cache "
        "folder at first use (800 MB)")  # fmt: skip
    add("--only", nargs="+", choices=[*PEERS, "skipvit"], default=[*PEERS, "skipvit"], help="servers (default: all)")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of every server and number of clients, medians over the rounds."""
    from benchmarks.peers import rounds

    return rounds.measure(arguments)


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Judges one run by the numbers that the server is to keep."""
    found = {(str(row["server"]), row["clients"]): row for row in rows if not row["note"]}
    for name in PEERS:
        started = any(server.startswith(name) for server, _ in found)
        yield Verdict(f"{name} took part", "yes", "yes" if started else "no", started)
    crowd = [row for (_, clients), row in found.items() if clients == CROWD]
    peers = [row for row in crowd if str(row["server"]).startswith(PEERS)]
    forms, bodies = ([row for row in crowd if str(row["server"]).startswith(way)] for way in (FORM, BODY))
    if peers and forms and bodies:
        yield from _in_a_crowd(peers, max(forms, key=_rate), max(bodies, key=_rate))
    if (ours := found.get((FORM, ALONE))) and (plain := found.get((f"{PEERS[0]}, 1 worker", ALONE))):
        limit = _number(plain, "p50_ms") + 0.3
        yield _at_most("p50 of one client, 0.3 ms over plain FastAPI's", limit, ours, "p50_ms", "ms")
    failed = sum(int(str(row["failures"])) for (server, _), row in found.items() if server.startswith((FORM, BODY)))
    yield Verdict("requests that failed", "0", str(failed), failed == 0)


def _in_a_crowd(peers: Sequence[Row], form: Row, body: Row) -> Iterable[Verdict]:
    best = max(map(_rate, peers))
    # Pillow decodes in all of them, and resizes in the peers; skipvit's own resizing gives ours the same pixels.
    ways = (("the same form, decoded by Pillow in both", 1.4, form), ("our fastest exact way, as the body", 1.8, body))
    for way, times, row in ways:
        ratio = _rate(row) / best if best else math.nan
        yield Verdict(
            f"requests/s of {CROWD} clients over the best peer's {best:g}, {way}",
            f">= {times:g} x", f"{ratio:.2f} x", ratio >= times,
        )  # fmt: skip
    quickest = min(_number(row, "p99_ms") for row in peers)
    yield _at_most(f"p99 of {CROWD} clients, 0.7 x the best peer's", 0.7 * quickest, form, "p99_ms", "ms")
    thriftiest = min(_number(row, "cpu_ms_per_request") for row in peers)
    yield _at_most(
        f"CPU of a request of {CROWD} clients, the lowest peer's", thriftiest, form, "cpu_ms_per_request", "ms"
    )


def _at_most(what: str, limit: float, row: Row, column: str, unit: str) -> Verdict:
    value = _number(row, column)
    return Verdict(what, f"<= {limit:.2f} {unit}", f"{value:.2f} {unit}", value <= limit)


def _rate(row: Row) -> float:
    return _number(row, "requests_per_s")


def _number(row: Row, column: str) -> float:
    return float(str(row[column]))
