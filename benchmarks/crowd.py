"""Clients that remember what became of each of their requests, while a server is ended, or parts of it."""

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_PAUSE_S = 0.05
ID = b"X-Request-ID: "


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its id, when it was sent and when that ended (time.monotonic), and how.

    ``outcome`` is the answer's status, or "refused" (no connection), "cut" (the connection was closed before the
    answer was complete) or "hung" (no answer within the time that the client waits).
    """

    request_id: str
    sent: float
    ended: float
    outcome: str


class Crowd:
    """So many clients on 127.0.0.1:port, each asking again when its last request has ended; a context.

    Each request has an id of its own. A client that is told when to come back (Retry-After) waits that long.
    """

    def __init__(self, port: int, request: bytes, clients: int, patience_s: float = 30.0) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        self._head, self._body = head, body
        self._port = port
        self._clients = clients
        self._patience_s = patience_s
        self._numbers = itertools.count()
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._sent: dict[str, float] = {}
        self.asked: list[Asked] = []

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Has the clients finish what they asked, and ends them."""
        self._stopping = True
        self._thread.join()

    @property
    def in_flight(self) -> int:
        """Requests that have not ended yet."""
        return len(self._sent)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping:
            request_id = f"crowd-{next(self._numbers)}"
            sent = self._sent[request_id] = time.monotonic()
            pause_s = 0.0
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                async with asyncio.timeout(self._patience_s):
                    outcome, pause_s, keep = await self._ask(*streams, request_id)
            except TimeoutError:
                outcome, keep = "hung", False
            except ConnectionRefusedError:
                outcome, keep, pause_s = "refused", False, _PAUSE_S
            except (OSError, EOFError):
                outcome, keep, pause_s = "cut", False, _PAUSE_S
            del self._sent[request_id]
            self.asked.append(Asked(request_id, sent, time.monotonic(), outcome))
            if not keep and streams is not None:
                streams[1].close()
                streams = None
            await asyncio.sleep(pause_s)
        if streams is not None:
            streams[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request_id: str
    ) -> tuple[str, float, bool]:
        """The status, how long to stay away, and whether the connection can be kept."""
        writer.write(self._head + b"\r\n" + ID + request_id.encode() + b"\r\n\r\n" + self._body)
        with suppress(ConnectionError):  # what there is of an answer can be read all the same
            await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        fields = {name: value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        await reader.readexactly(int(fields[b"content-length"]))
        pause_s = float(fields.get(b"retry-after", b"0"))
        return head.split(b" ", 2)[1].decode(), pause_s, fields.get(b"connection") != b"close"


def counted(asked: Sequence[Asked]) -> dict[str, int]:
    """How many requests ended how, in the columns of a CSV."""
    outcomes = [one.outcome for one in asked]
    known = {
        "200": "answered",
        "503": "told_503",
        "429": "told_429",
        "refused": "refused",
        "cut": "cut",
        "hung": "hung",
    }
    return {
        **{column: outcomes.count(outcome) for outcome, column in known.items()},
        "other": sum(outcome not in known for outcome in outcomes),
    }
