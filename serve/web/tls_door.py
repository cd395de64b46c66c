"""Connections that have not ended their TLS handshake: they have their time, and count as idle.

The event loop's own servers would keep each of them for a minute, any number of them, and let nobody know: a client
that opens connections and says nothing would have all descriptors of this process.
"""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from uvicorn.server import ServerState

from serve.web.bounded_http import BoundedHttp


class TlsDoor(asyncio.Protocol):
    """A connection of a server that listens without TLS, up to the end of its handshake; then it is one of ``http``.

    To uvicorn it is a protocol such as ``http``, and is made with the same arguments.
    """

    within_s: ClassVar[float] = 30.0
    """From the connection to the end of the handshake."""

    def __init__(
        self, http: type[BoundedHttp], context: ssl.SSLContext, *, server_state: ServerState, **given: Any
    ) -> None:
        self._context = context
        self._connections = server_state.connections
        self._http = partial(http, server_state=server_state, **given)
        self._idle = http.idle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        try:  # a transport may read before it can be told of TLS: another takes its place, which knows from the start
            self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            self._socket.setblocking(False)
        except OSError:  # no descriptor is free
            return
        finally:
            transport.abort()
        self._connections.add(self)  # type: ignore[arg-type]  # which uvicorn only calls shutdown of
        if self._idle is not None:
            self._idle.add(self)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._next, self._socket, ssl=self._context, ssl_handshake_timeout=self.within_s
            )
        except OSError:  # the client's, or our certificate is not for it; it was closed
            pass
        finally:
            self._leave()

    def _next(self) -> BoundedHttp:
        protocol = self._http()
        protocol.on_made = self._leave
        return protocol

    def _leave(self) -> None:
        self._connections.discard(self)
        if self._idle is not None:
            self._idle.discard(self)

    def shutdown(self) -> None:
        """Called when the server ends."""
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the connection; the handshake then fails."""
        with suppress(OSError):  # the client was faster
            self._socket.shutdown(socket.SHUT_RDWR)
