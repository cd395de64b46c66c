"""What the comparison with other servers runs together: a peer, and ours beside it."""

import argparse
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.comparison import BODY, FORM, PEERS
from benchmarks.peers.environment import NoEnvironment, python_of_peers
from serve.settings import available_cpus
from skipvit.client.load import Measurement

_MODULES = dict(
    zip(PEERS, ("plain_server", "peers.litserve_server", "peers.bentoml_server", "peers.ray_server"), strict=True)
)
_BY_PILLOW = "SKIPVIT_DECODING=pillow"


@dataclass(eq=False, slots=True)
class Server:
    """A process tree, and the command that starts it, which has PORT where its port belongs."""

    command: list[str]
    pid: int = 0
    port: int = 0
    rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What the load saw, CPU seconds of the server's process tree, and CPU seconds of the load itself."""

    load: Measurement
    cpu_s: float
    client_cpu_s: float


@dataclass(slots=True)
class Candidate:
    """A server and a way of asking it; turns by number of clients, one a round."""

    name: str
    server: Server
    request: bytes
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    note: str = ""


@dataclass(slots=True)
class Block:
    """A peer, which comes first, and ours beside it."""

    candidates: list[Candidate]

    @property
    def peer(self) -> Candidate:
        """The one that others are compared with."""
        return self.candidates[0]

    @property
    def servers(self) -> list[Server]:
        """Each once, however many ways of asking it there are."""
        return list(dict.fromkeys(candidate.server for candidate in self.candidates))


def blocks(models: Path, form: bytes, body: bytes, arguments: argparse.Namespace) -> Iterator[Block]:
    """A block for each peer with one worker, and with one per CPU; ``arguments`` as of benchmarks.peers.comparison."""
    python, note = _interpreter(arguments)
    for name in (name for name in PEERS if name in arguments.only):
        plain = name == PEERS[0]
        for workers in sorted({1, available_cpus()}):
            module = f"benchmarks.{_MODULES[name]}"
            peer = Server([sys.executable if plain else python, "-m", module, str(models), "PORT", str(workers)])
            label = f"{name}, {workers} worker{'s' if workers > 1 else ''}"
            ours = _ours(models, form, body, variants=plain and workers == 1)
            if plain and workers > 1:
                ours = itertools.chain(ours, _by_scheduling(label, peer, models, form, body))
            yield Block([Candidate(label, peer, form, note="" if plain else note), *ours])


def _by_scheduling(label: str, peer: Server, models: Path, form: bytes, body: bytes) -> Iterator[Candidate]:
    """What the scheduling that ours asks for does to a peer that is started with it, and what ours does without."""
    if _may_choose():
        yield Candidate(f"{label}, by chrt --batch", Server(["chrt", "--batch", "0", *peer.command]), form)
    cpus = available_cpus()
    by_system = [*_serve(models), "--scheduling", "system", "--fronts", str(cpus)]
    as_form = Server(["env", _BY_PILLOW, *by_system])
    yield Candidate(f"{FORM}, {cpus} fronts, system's scheduling", as_form, form)
    yield Candidate(f"{BODY}, {cpus} fronts, system's scheduling", Server(by_system), body)


def _may_choose() -> bool:
    """Whether ``chrt`` is here, and may do what it is for."""
    if shutil.which("chrt") is None:
        return False
    return subprocess.run(["chrt", "--batch", "0", "true"], capture_output=True).returncode == 0


def _serve(models: Path) -> list[str]:
    return [sys.executable, "-m", "serve", str(models), "--port", "PORT"]


def _interpreter(arguments: argparse.Namespace) -> tuple[str, str]:
    """The peers' interpreter, or why there is none."""
    if arguments.python is not None or not set(arguments.only) & set(PEERS[1:]):
        return str(arguments.python), ""
    try:
        return str(python_of_peers()), ""
    except NoEnvironment as error:
        return "", f"its environment could not be made: {error}"


def _ours(models: Path, form: bytes, body: bytes, *, variants: bool) -> Iterator[Candidate]:
    """Ours by a form that Pillow decodes, as the peers' forms, and by a body that our fastest exact decoder takes.

    Both in one process and behind fronts. Then, as variants, the form by that decoder, and what the server alone
    brings, where Pillow resizes too.
    """
    command = _serve(models)
    by_pillow = ["env", _BY_PILLOW, *command]
    fast = Server(command)
    yield Candidate(FORM, Server(by_pillow), form)
    yield Candidate(BODY, fast, body)
    if (cpus := available_cpus()) > 1:
        fronts = ["--fronts", str(cpus)]
        yield Candidate(f"{FORM}, {cpus} fronts", Server([*by_pillow, *fronts]), form)
        yield Candidate(f"{BODY}, {cpus} fronts", Server([*command, *fronts]), body)
    if variants:
        yield Candidate(f"{FORM}, our decoder", fast, form)
        alone = Server(["env", "SKIPVIT_RESAMPLING=pillow", *by_pillow])
        yield Candidate(f"{FORM}, all by Pillow", alone, form)
        yield Candidate(f"{BODY}, all by Pillow", alone, body)
