"""A connection whose writes of one turn of the event loop go out together."""

import asyncio
from collections.abc import Callable
from typing import Any


class JoinedWrites:
    """A transport that keeps what it is given for a moment, and sends it with what follows.

    Uvicorn writes the head of a response, and then its body, and uvloop sends each write at once: two system calls with
    the interpreter's lock held, and two wake-ups of the client.

    Args:
        lingers: asked before the connection is closed; if it says so it is not, and whoever asked closes it later.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        lingers: Callable[[], bool] = lambda: False,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._lingers = lingers
        self._held: bytes | None = None
        self._half_closed = False

    def write(self, data: bytes) -> None:
        """Sends ``data`` with what is held, or holds it until the next write or turn of the loop."""
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.writelines((held, data))
        elif data:
            self._held = data
            self._loop.call_soon(self._send)

    def write_whole(self, data: bytes) -> None:
        """Sends what is held, and ``data``, which nothing follows."""
        self._send()
        self._transport.write(data)

    def _send(self) -> None:
        if self._held is not None and not self._transport.is_closing():
            held, self._held = self._held, None
            self._transport.write(held)

    def close(self) -> None:
        """Closes the connection when all is sent."""
        self._send()
        if self._half_closed or not self._lingers():
            self._transport.close()

    def close_half(self) -> None:
        """Tells the other end that nothing follows what was sent, where that can be told; not so in TLS."""
        self._send()
        self._half_closed = True
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._held = None
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it was closed, at this end or the other."""
        return self._half_closed or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return len(self._held or b"") + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
