"""New versions of a model under load: no request may fail, and every answer must be of the version that it names."""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.proofs import Row, Verdict
from benchmarks.versions import export_first, publish
from skipvit.arguments import whole

if TYPE_CHECKING:
    import httpx

PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "pillow", "numpy")
_WATCH_S = 0.25
_LONGEST_S = 30.0  # that an answer may take, and that the last version may take to be served


@dataclass(slots=True)
class Answer:
    """One request: when its answer came, how long that took, and what it said; no version if it failed."""

    at: float
    seconds: float
    version: int | None
    top: int = -1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to swap; default %(default)s")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between versions; default %(default)s")
    parser.add_argument("--fronts", nargs="+", type=whole(0), default=[0, 2], help="front processes (default: 0 2)")
    parser.add_argument("--clients", type=int, default=32, help="clients that keep asking; default %(default)s")


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """One row a version, for each number of fronts."""
    from benchmarks.servers import photo

    rows: list[dict[str, object]] = []
    for fronts in arguments.fronts:
        with TemporaryDirectory() as scratch:
            root = Path(scratch) / "models"
            export_first(root, "mini")
            rows += swap(root, "mini", photo(), arguments, fronts)
    return rows


def swap(
    root: Path, name: str, picture: bytes, arguments: argparse.Namespace, fronts: int = 0
) -> list[dict[str, object]]:
    """Swaps versions of a classifier in ``root`` under a server of its own."""
    from benchmarks.servers import free_ports, server
    from skipvit.artifacts import read_entry

    [port] = free_ports(1)
    command = [sys.executable, "-m", "serve", str(root), "--port", str(port), "--watch-s", str(_WATCH_S)]
    command += ["--fronts", str(fronts)]
    classes = read_entry(root, name, 1).manifest.outputs[0].shape[-1]
    with server(command, port):
        rows = asyncio.run(_Run(root, name, picture, f"http://127.0.0.1:{port}", int(classes)).rows(arguments))
    return [{"fronts": fronts, **row} for row in rows]


class _Run:
    def __init__(self, root: Path, name: str, picture: bytes, url: str, classes: int) -> None:
        self._root, self._name, self._picture, self._url, self._classes = root, name, picture, url, classes
        self._answers: list[Answer] = []
        self._published: dict[int, float] = {}
        self._ending = False

    async def rows(self, arguments: argparse.Namespace) -> list[dict[str, object]]:
        import httpx
        from tqdm import tqdm

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=_LONGEST_S, limits=limits) as client:
            first = await self._ask(client)
            if first.version != 1:
                raise RuntimeError("the server does not answer with the first version")
            self._published[1] = time.perf_counter()
            asking = [asyncio.create_task(self._keep_asking(client)) for _ in range(arguments.clients)]
            with tqdm(total=arguments.seconds, desc="hot-swap", unit="s", leave=False) as progress:
                try:
                    await self._keep_publishing(arguments.every, arguments.seconds, progress)
                finally:
                    self._ending = True
                    await asyncio.gather(*asking)  # what was asked is waited for: it could fail too
        return [self._row(version, first.top) for version in self._published]

    async def _keep_publishing(self, every: float, seconds: float, progress: Any) -> None:
        ends = time.perf_counter() + seconds
        for version in itertools.count(2):
            await asyncio.sleep(min(every, max(0.0, ends - time.perf_counter())))
            progress.update(min(every, progress.total - progress.n))
            if time.perf_counter() >= ends:
                break
            await asyncio.to_thread(publish, self._root, self._name, version)
            self._published[version] = time.perf_counter()
        last = max(self._published)
        while not any(answer.version == last for answer in reversed(self._answers)):
            if time.perf_counter() > ends + _LONGEST_S:
                break
            await asyncio.sleep(_WATCH_S)

    async def _keep_asking(self, client: "httpx.AsyncClient") -> None:
        while not self._ending:
            self._answers.append(await self._ask(client))

    async def _ask(self, client: "httpx.AsyncClient") -> Answer:
        import httpx

        started = time.perf_counter()
        version, top = None, -1
        try:
            headers = {"Content-Type": "image/jpeg"}
            response = await client.post("/v1/classify?top_k=1", content=self._picture, headers=headers)
            if response.status_code == 200:
                answer = response.json()
                version = int(answer["model"]["version"])
                top = answer["results"][0]["predictions"][0]["index"]
        except (httpx.HTTPError, ValueError, LookupError):
            pass  # it failed, and is counted so
        now = time.perf_counter()
        return Answer(now, now - started, version, top)

    def _row(self, version: int, first_top: int) -> dict[str, object]:
        from skipvit.client.load import percentiles

        published = self._published[version]
        until = self._published.get(version + 1, float("inf"))
        mine = [answer for answer in self._answers if answer.version == version]
        p50, p99 = percentiles([answer.seconds for answer in mine], [50, 99])
        served_after = min((answer.at for answer in mine), default=float("nan")) - published
        return {
            "version": version,
            "served_after_s": round(served_after, 3),
            "requests": len(mine),
            "failed": sum(answer.version is None and published <= answer.at < until for answer in self._answers),
            "of_another_version": sum(answer.top != (first_top + version - 1) % self._classes for answer in mine),
            "p50_ms": round(p50 * 1e3, 2),
            "p99_ms": round(p99 * 1e3, 2),
        }


def verdicts(rows: Sequence[Row]) -> Iterable[Verdict]:
    """The issue's number: zero failed requests. What it rests on: that all versions were served and told the truth."""
    for fronts in sorted({int(str(row.get("fronts", 0))) for row in rows}):
        own = [row for row in rows if int(str(row.get("fronts", 0))) == fronts]
        where = f", {fronts} fronts" if fronts else ""
        failed, wrong, requests = (
            sum(int(str(row[column])) for row in own) for column in ("failed", "of_another_version", "requests")
        )
        yield Verdict(f"failed requests{where}", "0", f"{failed} of {requests + failed}", failed == 0)
        yield Verdict(f"answers that are not of the version that they name{where}", "0", str(wrong), wrong == 0)
        silent = [str(row["version"]) for row in own if row["requests"] == 0]
        yield Verdict(f"versions that never answered{where}", "none", ", ".join(silent) or "none", not silent)
