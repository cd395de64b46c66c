"""Load on a server, closed loop or open, and what it answered, when.

Closed: so many clients, each sending its next request when the last was answered. A server that stalls is then asked
less, and its worst moments are hardly seen. Open: requests start at times of their own (a Poisson process), however
long answers take, and a latency counts from the time that a request was meant to start, so that a stall is seen by
all that came meanwhile. Requests are bytes made once, so that the client takes little of the cores that it may share
with the server.
"""

import asyncio
import itertools
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import numpy as np

# After a failure to connect or to read: a server that is gone is not to be asked as fast as the machine can.
_PAUSE_S = 0.05
_MAX_CHUNK_LINE = 1024


class Exchange(Protocol):
    """A connection that carries one request at a time."""

    async def ask(self, request: bytes) -> int:
        """Sends a request, reads the whole answer, returns its status."""

    def close(self) -> None:
        """Gives the connection up; the next request makes another."""


Connect = Callable[[], Exchange]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to load a server: requests of the first ``warmup_s`` are not counted, those of ``seconds`` after it are.

    An answer that takes longer than ``timeout_s`` is not waited for.
    """

    seconds: float
    warmup_s: float = 0.0
    timeout_s: float = 60.0


@dataclass(slots=True)
class Measurement:
    """What a run saw.

    Attributes:
        latencies_s: of answers with status 200, in the order in which they came.
        outcomes: counted requests by status, or by "timeout", "refused" (no connection) and "broken" (a cut answer).
        answered: answers with status 200 that came within the counted seconds, whenever they were asked for.
        seconds: that were counted; fewer than planned if the run was ended early.
        late_s: the most that a request started after its time, because the client had no time itself.
        interrupted: whether the run was ended early.
    """

    latencies_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    seconds: float = 0.0
    late_s: float = 0.0
    interrupted: bool = False

    @property
    def requests_per_s(self) -> float:
        """Answers with status 200 in a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0


def percentiles(latencies_s: Sequence[float], percents: Iterable[float]) -> list[float]:
    """For each percent, the smallest latency that so many of a hundred do not exceed; NaN if there are none."""
    percents = list(percents)
    if not latencies_s:
        return [float("nan")] * len(percents)
    return [float(value) for value in np.percentile(latencies_s, percents, method="inverted_cdf")]


def poisson_arrivals(rate: float, seconds: float, dice: random.Random) -> Iterator[float]:
    """Times from 0 to ``seconds`` at which requests start: independent of each other, ``rate`` a second on average."""
    time = dice.expovariate(rate)
    while time < seconds:
        yield time
        time += dice.expovariate(rate)


async def closed_loop(
    connect: Connect,
    requests: Sequence[bytes],
    clients: int,
    plan: Plan,
    into: Measurement | None = None,
) -> Measurement:
    """Loads a server with ``clients`` connections; cancelling ends it early, with what was measured until then.

    Args:
        requests: sent in turns.
        into: what is filled, answer by answer, and returned; for those who watch a run.
    """
    run = _Run(plan, into)

    async def client(first: int) -> None:
        exchange = connect()
        try:
            for request in itertools.islice(itertools.cycle(requests), first % len(requests), None):
                if run.clock() >= run.until:
                    return
                if not await run.observe(run.clock(), exchange.ask(request)):
                    exchange.close()
                    await asyncio.sleep(_PAUSE_S)
        finally:
            exchange.close()

    async def all_clients() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(client(number))

    return await run.result_of(all_clients())


async def open_loop(
    connect: Connect,
    requests: Sequence[bytes],
    arrivals: Iterable[float],
    plan: Plan,
    max_connections: int = 1024,
    into: Measurement | None = None,
) -> Measurement:
    """Starts a request at each of ``arrivals``, in seconds from now; cancelling ends it early, as with closed_loop.

    A request that finds all ``max_connections`` busy waits for one, and the wait is part of its latency.
    """
    run = _Run(plan, into)
    idle: list[Exchange] = []
    room = asyncio.Semaphore(max_connections)

    async def ask(request: bytes) -> int:
        async with room:
            exchange = idle.pop() if idle else connect()
            try:
                status = await exchange.ask(request)
            except BaseException:
                exchange.close()
                raise
            idle.append(exchange)
            return status

    async def all_arrivals() -> None:
        async with asyncio.TaskGroup() as group:
            for offset, request in zip(arrivals, itertools.cycle(requests), strict=False):
                intended = run.began + offset
                await asyncio.sleep(max(0.0, intended - run.clock()))
                run.measured.late_s = max(run.measured.late_s, run.clock() - intended)
                group.create_task(run.observe(intended, ask(request)))

    try:
        return await run.result_of(all_arrivals())
    finally:
        for exchange in idle:
            exchange.close()


class _Run:
    """The clock of a run, and what it counts."""

    def __init__(self, plan: Plan, into: Measurement | None) -> None:
        self.clock = asyncio.get_running_loop().time
        self.began = self.clock()
        self.counts_from = self.began + plan.warmup_s
        self.until = self.counts_from + plan.seconds
        self.measured = into or Measurement()
        self._timeout_s = plan.timeout_s

    async def observe(self, intended: float, answer: Awaitable[int]) -> bool:
        """Counts one request; returns whether there was an answer."""
        answered = False
        try:
            async with asyncio.timeout_at(intended + self._timeout_s):
                outcome = str(await answer)
            answered = True
        except TimeoutError:
            outcome = "timeout"
        except ConnectionRefusedError:
            outcome = "refused"
        except (OSError, EOFError, ValueError, LookupError):
            outcome = "broken"
        if outcome == "200" and self.counts_from <= self.clock() <= self.until:
            self.measured.answered += 1
        if intended >= self.counts_from:
            self.measured.outcomes[outcome] += 1
            if outcome == "200":
                self.measured.latencies_s.append(self.clock() - intended)
        return answered

    async def result_of(self, load: Awaitable[None]) -> Measurement:
        try:
            await load
        except asyncio.CancelledError:
            self.measured.interrupted = True
        self.measured.seconds = max(0.0, min(self.until, self.clock()) - self.counts_from)
        return self.measured


class HttpExchange:
    """HTTP/1.1 over one connection that is kept; a proxy is not looked for."""

    def __init__(self, url: httpx.URL, tls: ssl.SSLContext | None) -> None:
        self._host = url.host
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.fields: dict[bytes, bytes] = {}  # headers of the last answer, in lower case

    async def ask(self, request: bytes) -> int:
        """Sends a request, reads the whole answer, returns its status."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1."):
            raise ValueError("not HTTP/1")
        fields = self.fields = dict(line.partition(b":")[::2] for line in head.split(b"\r\n")[1:] if line)
        if fields.get(b"transfer-encoding", b"").strip() == b"chunked":
            await _skip_chunks(reader)
        else:
            await _skip(reader, int(fields[b"content-length"]))
        if fields.get(b"connection", b"").strip() == b"close":
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _skip(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        piece = await reader.read(min(size, 1 << 16))
        if not piece:
            raise EOFError("the answer was cut short")
        size -= len(piece)


async def _skip_chunks(reader: asyncio.StreamReader) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        if len(line) > _MAX_CHUNK_LINE:
            raise ValueError("not a chunk")
        size = int(line.partition(b";")[0], 16)
        await _skip(reader, size)
        await reader.readuntil(b"\r\n")
        if size == 0:
            return


def request_bytes(request: httpx.Request) -> bytes:
    """A request as it crosses the wire, to be sent again and again."""
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""]) + request.read()
