"""Ours beside LitServe, Ray Serve, BentoML and plain FastAPI: the same model, decoding and picture over HTTP.

A peer and ours run together, and are asked in short turns, the order moved on by one each round; who is not asked is
paused. The speed of a machine drifts within minutes, so only turns of the same seconds are compared. Peers come once
with one worker and once with a worker per CPU, ours with one process and with a front per CPU, of which the better is
judged, in the worst of these comparisons, that with the best peer. A peer that cannot be started has a row that says
so, and is not counted as beaten.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
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
    add("--seconds", type=float, default=1.2, help="of load in one turn (default: 1.2)")
    add("--rounds", type=whole(1), default=7, help="turns of each server beside each peer (default: 7)")
    add("--clients", nargs="+", type=whole(1), default=[ALONE, CROWD], help="verdicts need 1 and 32 (default: 1 32)")
    add("--python", type=Path, metavar="PATH",
        help="interpreter that has benchmarks/peers/requirements.txt; without it, an environment is made in the cache "
        "folder at first use (800 MB)")  # fmt: skip
    add("--only", nargs="+", choices=PEERS, default=PEERS, help="peers to run ours beside (default: all)")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of every server and number of clients beside each peer, medians over the rounds."""
    from benchmarks.peers import rounds

    return rounds.measure(arguments)


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Judges one run by the numbers that the server is to keep."""
    for name in PEERS:
        own = [row for row in rows if str(row["server"]).startswith(name)]
        there = bool(own) and not any(row["note"] for row in own)
        yield Verdict(f"{name} took part", "yes", "yes" if there else "no", there)
    forms, bodies = _best_pairs(rows, FORM), _best_pairs(rows, BODY)
    rate = f"requests/s of {CROWD} clients over the best peer's in the same round"
    yield _at_least(f"{rate}, the same form, decoded by Pillow in both", 1.4, forms)
    yield _at_least(f"{rate}, our fastest exact way, as the body", 1.8, bodies)
    yield _at_most(f"p99 of {CROWD} clients over the best peer's beside it", 0.7, "x", forms, _ratio("p99_ms"))
    cpu = f"CPU of a request of {CROWD} clients over the lowest peer's beside it"
    yield _at_most(cpu, 1.0, "x", forms, _ratio("cpu_ms_per_request"))
    plain = [pair for pair in _pairs(rows, FORM, ALONE) if _peer(pair) == f"{PEERS[0]}, 1 worker"]
    yield _at_most("p50 of one client over plain FastAPI's beside it", 0.3, "ms", plain, _over)
    failed = sum(int(str(row["failures"])) for row in rows if str(row["server"]).startswith((FORM, BODY)))
    yield Verdict("requests that failed", "0", str(failed), failed == 0)


Pair = tuple[Row, Row]
"""Ours and the peer that it ran beside."""


def _pairs(rows: Sequence[Row], way: str, clients: int) -> list[Pair]:
    found = {(row.get("beside"), row["server"]): row for row in rows if row["clients"] == clients and not row["note"]}
    return [
        (ours, found[beside, beside])
        for (beside, name), ours in found.items()
        if name == way and (beside, beside) in found
    ]


def _best_pairs(rows: Sequence[Row], way: str) -> list[Pair]:
    """In a crowd, of each block that of ours which answers most, in one process or behind fronts."""
    most: dict[object, Pair] = {}
    setting = re.compile(re.escape(way) + r"(, \d+ fronts)?")
    for name in sorted({str(row["server"]) for row in rows if setting.fullmatch(str(row["server"]))}):
        for pair in _pairs(rows, name, CROWD):
            held = most.setdefault(pair[1]["server"], pair)
            if _times(pair) > _times(held):
                most[pair[1]["server"]] = pair
    return list(most.values())


def _times(pair: Pair) -> float:
    return _number(pair[0], "times_the_peer")


def _peer(pair: Pair) -> str:
    return str(pair[1]["server"])


def _ratio(column: str) -> Callable[[Pair], float]:
    return lambda pair: _number(pair[0], column) / _number(pair[1], column)


def _over(pair: Pair) -> float:
    return _number(pair[0], "p50_ms") - _number(pair[1], "p50_ms")


def _at_least(what: str, limit: float, pairs: Sequence[Pair]) -> Verdict:
    worst = min(pairs, key=_times, default=None)
    met = worst is not None and _times(worst) >= limit
    return Verdict(what, f">= {limit:g} x", _found(worst, _times, "x"), met)


def _at_most(what: str, limit: float, unit: str, pairs: Sequence[Pair], value: Callable[[Pair], float]) -> Verdict:
    worst = max(pairs, key=value, default=None)
    met = worst is not None and value(worst) <= limit
    return Verdict(what, f"<= {limit:g} {unit}", _found(worst, value, unit), met)


def _found(worst: Pair | None, value: Callable[[Pair], float], unit: str) -> str:
    """The number with the peer of which it was found, the best one, and how ours was run if not in one process."""
    if worst is None:
        return "not measured"
    behind = str(worst[0]["server"]).removeprefix(FORM).removeprefix(BODY)
    return f"{value(worst):.2f} {unit} ({_peer(worst)}{f'; ours{behind}' if behind else ''})"


def _number(row: Row, column: str) -> float:
    return float(str(row[column]))
