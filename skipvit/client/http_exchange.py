"""HTTP/1.1 for a load: requests are bytes made once, answers are counted and not kept.

A request takes no task, no wait and no copy of its answer, so that the client takes little of the cores that it may
share with the server.
"""

import asyncio
import re
import ssl
from typing import cast

import httpx

from skipvit.client.asking import Done

_MAX_HEAD = 1 << 16
_MAX_CHUNK_LINE = 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


class HttpExchange:
    """One connection that is kept, and made again where the server closed it; a proxy is not looked for."""

    def __init__(self, url: httpx.URL, tls: ssl.SSLContext | None) -> None:
        self._host = url.host
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None

    def ask(self, request: bytes, done: Done) -> None:
        """Sends a request; ``done`` is called later, with the status when all of the answer has come.

        Without an answer it gets an OSError where there is no connection, an EOFError where it was cut, and a
        ValueError where what came is no HTTP.
        """
        if self._connection is None or self._connection.closed:
            self._connecting = self._loop.create_task(self._connect_and_ask(request, done))
        else:
            self._connection.ask(request, done)

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Headers of the last answer, in lower case."""
        head = self._connection.head if self._connection else b""
        return dict(line.partition(b":")[::2] for line in head.lower().split(b"\r\n")[1:] if line)

    def close(self) -> None:
        """Closes the connection, if there is one; whoever waits for an answer is told nothing more."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _connect_and_ask(self, request: bytes, done: Done) -> None:
        self._connection = None
        connect = self._loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        try:
            _, self._connection = await connect
        except Exception as error:  # ``done`` tells what the network did from mistakes of ours
            done(error)
        else:
            self._connection.ask(request, done)


class _Connection(asyncio.Protocol):
    """Asks one thing at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.head = b""  # of the last answer
        self._transport: asyncio.Transport
        self._done: Done | None = None
        self._status = 0  # of the answer whose body is being read
        self._began = b""  # what came of a head
        self._left = 0  # bytes of the body still to come
        self._chunks: _Chunks | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or EOFError("the connection was closed before the answer was complete"))

    def ask(self, request: bytes, done: Done) -> None:
        self._done = done
        self._transport.write(request)

    def close(self) -> None:
        self.closed = True
        self._done = None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._done is None:  # nothing was asked
            self.close()
            return
        try:
            complete = self._take_body(data) if self._status else self._take_head(data)
        except ValueError as error:
            self._fail(error)
            return
        if complete:
            self._end()

    def _take_head(self, data: bytes) -> bool:
        data = self._began + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MAX_HEAD:
                raise ValueError("the head of the answer does not end")
            self._began = data
            return False
        self._began = b""
        self.head = head = data[: end + 2]
        begins = _STATUS.match(head)
        if begins is None:
            raise ValueError("not HTTP/1")
        if (length := _LENGTH.search(head)) is not None:
            self._left = int(length[1])
        elif _CHUNKED.search(head):
            self._chunks = _Chunks()
        else:
            raise ValueError("the answer does not say where it ends")
        self._status = int(begins[1])
        return self._take_body(data[end + 4 :])

    def _take_body(self, data: bytes) -> bool:
        if self._chunks is not None:
            return self._chunks.take(data)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the answer is longer than it said")
        return not self._left

    def _end(self) -> None:
        done, self._done = self._done, None
        status, self._status = self._status, 0
        self._chunks = None
        if _CLOSE.search(self.head):
            self.close()
        if done is not None:
            done(status)

    def _fail(self, error: Exception) -> None:
        done = self._done
        self.close()
        if done is not None:
            done(error)


class _Chunks:
    """Finds the end of a body in chunks (RFC 9112, 7.1), piece by piece."""

    def __init__(self) -> None:
        self._line = b""  # what came of one
        self._skip = 0  # bytes still to come of a chunk and the line end after it
        self._last = False

    def take(self, data: bytes) -> bool:
        """Returns whether the body is complete.

        Raises:
            ValueError: it is not in chunks.
        """
        data, self._line = self._line + data, b""
        at = 0
        while True:
            step = min(self._skip, len(data) - at)
            at += step
            self._skip -= step
            end = data.find(b"\r\n", at)
            if end < 0:
                self._line = data[at:]
                if len(self._line) > _MAX_CHUNK_LINE:
                    raise ValueError("not a chunk")
                return False
            line, at = data[at:end], end + 2
            if not self._last:
                self._begin(line)
            elif not line:
                return True

    def _begin(self, line: bytes) -> None:
        size = int(line.partition(b";")[0], 16)
        if size < 0:
            raise ValueError("not a chunk")
        self._last = size == 0
        self._skip = size + 2 if size else 0


def request_bytes(request: httpx.Request) -> bytes:
    """A request as it crosses the wire, to be sent again and again."""
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""]) + request.read()
