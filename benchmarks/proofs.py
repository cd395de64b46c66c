"""Measurements with a number to meet: each prints verdicts beside the needed figures, and fails where one is missed.

A proof is a module with ``PACKAGES``, ``add_arguments``, ``measure`` and ``verdicts``, named in ``PROOFS``; everything
heavy is imported by ``measure``, so that ``--help`` stays quick.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from benchmarks.rows import print_table, write_rows

Row = Mapping[str, object]

PROOFS: dict[str, tuple[str, str]] = {
    "peers": ("benchmarks.peers.comparison", "ours beside LitServe, BentoML, Ray Serve and plain FastAPI, over HTTP"),
    "overload": ("benchmarks.overload", "ten times what a server can do, for a minute"),
    "fuzz": ("benchmarks.fuzz", "broken and hostile inputs through every door of a server"),
    "openapi": ("benchmarks.openapi", "requests as the OpenAPI document has them, and others: answers as it has them"),
    "engine-kill": ("benchmarks.engine_kill", "kill -9 of the engines' process under load: ready again, none hung"),
    "drain": ("benchmarks.drain", "SIGTERM under load, with one process and with fronts: no request lost"),
    "fronts": ("benchmarks.fronts", "requests a second and CPU per request of 0, 1 and 2 front processes"),
    "ladder": ("benchmarks.ladder", "a group of variants under a step of load: latency, and who answered"),
    "hot-swap": ("benchmarks.hot_swap", "new versions of a model every 2 s, under 32 clients"),
    "reloads": ("benchmarks.reloads", "a thousand loads of a model into one server, and its memory"),
}
"""Command to module and help, in the order of --help."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One number of a proof: what was needed, what was found, and whether that will do."""

    what: str
    needed: str
    found: str
    met: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: needed {self.needed}, found {self.found}"


class Proof(Protocol):
    """What a module of ``PROOFS`` has."""

    PACKAGES: Sequence[str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Gives the parser this command's arguments."""

    def measure(self, arguments: argparse.Namespace) -> list[dict[str, object]]:
        """Returns the rows of the CSV."""

    def verdicts(self, rows: Sequence[Row]) -> Iterable[Verdict]:
        """Judges the rows of one run."""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds a command for each proof."""
    for command, (module, text) in PROOFS.items():
        _load(module).add_arguments(commands.add_parser(command, help=text))


def run(command: str, arguments: argparse.Namespace) -> int:
    """Measures, writes the CSV, prints rows and verdicts; returns 1 if a number was missed."""
    proof = _load(PROOFS[command][0])
    rows = proof.measure(arguments)
    path = write_rows(command, rows, proof.PACKAGES, Path(arguments.out))
    shown: list[Mapping[str, object]] = list(rows)
    print_table(shown)
    print(f"Written: {path}")
    verdicts = verdicts_of(command, rows)
    for verdict in verdicts:
        print(verdict)
    return 0 if all(verdict.met for verdict in verdicts) else 1


def verdicts_of(command: str, rows: Sequence[Row]) -> list[Verdict]:
    """Judges rows of a proof, of this run or of a file."""
    return list(_load(PROOFS[command][0]).verdicts(rows))


def _load(module: str) -> Proof:
    found: Any = import_module(module)
    return cast(Proof, found)
