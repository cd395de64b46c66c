"""A closed-loop HTTP load generator: so many connections, each sending its next request when the last was answered.

Requests are bytes made once, so that the client takes little of the cores it shares with the server.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field

_ANSWER_WITHIN_S = 60.0


@dataclass
class Load:
    """What a run saw: latencies in milliseconds of answers with status 200, and how many had another."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        if not self.latencies_ms:
            return math.nan
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request_bytes(path: str, body: bytes, content_type: str) -> bytes:
    """A POST over HTTP/1.1 that keeps the connection."""
    head = ["Host: 127.0.0.1", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([f"POST {path} HTTP/1.1", *head, "", ""]).encode() + body


def multipart(body: bytes, filename: str, content_type: str) -> tuple[bytes, str]:
    """The body and content type of a form with one file in it."""
    boundary = "skipvit-benchmark"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    return head.encode() + body + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def run_load(port: int, request: bytes, connections: int, seconds: float) -> Load:
    """Sends ``request`` to 127.0.0.1:port over ``connections`` connections for ``seconds``."""
    return asyncio.run(_run(port, request, connections, seconds))


async def _run(port: int, request: bytes, connections: int, seconds: float) -> Load:
    load = Load()
    start = time.perf_counter()
    await asyncio.gather(*[_client(port, request, start + seconds, load) for _ in range(connections)])
    load.seconds = time.perf_counter() - start
    return load


async def _client(port: int, request: bytes, until: float, load: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (sent := time.perf_counter()) < until:
            writer.write(request)
            status = await asyncio.wait_for(_answer(reader), _ANSWER_WITHIN_S)
            if status == 200:
                load.latencies_ms.append((time.perf_counter() - sent) * 1e3)
            else:
                load.failures += 1
    finally:
        writer.close()
        await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return int(head.split(b" ", 2)[1])
