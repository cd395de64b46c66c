"""Requests a second and CPU per request of one process and of several, all running, measured in turns.

Each comes once with the scheduling that the server asks for and once with the system's own.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.proofs import Row, Verdict
from skipvit.arguments import whole

if TYPE_CHECKING:
    from skipvit.client.load import Measurement

PACKAGES = ("uvicorn", "onnxruntime", "pillow", "numpy")
_PAUSE_S = 0.3
_SCHEDULING = ("batch", "system")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser this command's arguments."""
    parser.add_argument("--rounds", type=whole(1), default=5, help="turns of every server (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one turn (default: 4)")
    parser.add_argument("--clients", nargs="+", type=whole(1), default=[1, 32], help="connections (default: 1 32)")
    parser.add_argument("--fronts", nargs="+", type=whole(0), default=[0, 1, 2], help="processes (default: 0 1 2)")
    parser.add_argument("--scheduling", nargs="+", choices=_SCHEDULING, default=_SCHEDULING, help="(default: both)")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each number of fronts, scheduling, and number of clients."""
    from tqdm import tqdm

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

    found: dict[tuple[int, str, int], list[tuple[Measurement, float]]] = {}
    with TemporaryDirectory() as scratch, ExitStack() as running:
        models = write_mini_model(Path(scratch) / "models")
        _, request = form_and_body(photo())
        servers: dict[tuple[int, str], tuple[int, int]] = {}
        kinds = list(itertools.product(arguments.fronts, arguments.scheduling))
        for (fronts, scheduling), port in zip(kinds, free_ports(len(kinds)), strict=True):
            given = ["--port", str(port), "--fronts", str(fronts), "--scheduling", scheduling]
            command = [sys.executable, "-m", "serve", str(models), *given]
            servers[fronts, scheduling] = port, running.enter_context(server(command, port))
            run_load(port, request, 4, 1.0)  # warm-up
        turns = [(clients, kind) for _ in range(arguments.rounds) for clients in arguments.clients for kind in servers]
        for clients, kind in tqdm(turns, desc="fronts", unit="turn", leave=False):
            port, pid = servers[kind]
            before = cpu_seconds(pid)
            load = run_load(port, request, clients, arguments.seconds)
            found.setdefault((*kind, clients), []).append((load, cpu_seconds(pid) - before))
            time.sleep(_PAUSE_S)
        return [
            {
                "fronts": fronts,
                "scheduling": scheduling,
                **row_of("skipvit, raw body", clients, turns_of, rss_mb(servers[fronts, scheduling][1])),
            }
            for (fronts, scheduling, clients), turns_of in sorted(found.items())
        ]


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """Nothing failed. That fronts are faster is not asked of a machine whose cores one process can fill."""
    failures = sum(int(str(row["failures"])) for row in rows)
    yield Verdict("requests that failed", "0", str(failures), failures == 0)
