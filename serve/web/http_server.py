"""Uvicorn as this program runs it: with a drain, and an exit code that says how it went."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from serve.models.repository import Repository
from serve.monitoring.logs import flush_log
from serve.settings import Settings
from serve.web.idle import IdleConnections, most_idle
from serve.web.shedding import Shedding
from serve.web.tls import Tls, tls_of

logger = logging.getLogger(__name__)

BACKLOG = 1024
_CLOSE = (b"connection", b"close")
_AT_ONCE_S = 3.0


class HttpServer(uvicorn.Server):
    """Uvicorn with a drain: SIGTERM first takes the server out of rotation, and ends in exit code 0.

    ``announce`` is called once, when the models are warm; ``shedding`` refuses what needs not come as far as the app.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        repository: Repository,
        announce: Callable[[], None],
        shedding: Shedding | None = None,
    ) -> None:
        self._tls = tls_of(settings)
        super().__init__(_config_of(app, settings, self._tls, shedding))
        self._settings = settings
        self._repository = repository
        self._announce = announce
        self._announced = False
        self._leave_at: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # Uvicorn's own raises the signal again at the end, and the process would die of it instead of exiting with 0.
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.leave(self._settings.lame_duck_s if sig == signal.SIGTERM else 0.0)

    @property
    def leaving(self) -> bool:
        """Whether the drain has begun."""
        return self._leave_at is not None

    def leave(self, lame_duck_s: float) -> None:
        """Begins the drain, and ends it after so long; at once if asked twice, or if no model has answered yet."""
        if self.leaving:
            self.should_exit = self.force_exit = True
            _end_soon()
            return
        if self._repository.state in ("new", "warming"):
            lame_duck_s = 0.0  # no balancer sends anything here
        self._repository.drain()
        self._leave_at = time.monotonic() + lame_duck_s

    async def on_tick(self, counter: int) -> bool:
        if not self._announced and self._repository.state == "ready":
            self._announced = True
            self._announce()
        if self._repository.failure is not None:
            self.should_exit = True
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self.should_exit = True
        if self._tls is not None:
            self._tls.refresh()
        over = await super().on_tick(counter)
        if self.leaving and _CLOSE not in self.server_state.default_headers:
            # Clients change over to new connections, which a balancer gives to others, before this end closes theirs.
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return over


def _end_soon() -> None:
    """Ends this process in a moment, even where a thread hangs in an engine: Python would wait for it."""
    timer = threading.Timer(_AT_ONCE_S, _end_now)
    timer.daemon = True
    timer.start()


def _end_now() -> None:
    flush_log()
    os._exit(0)


def end_past_hung_threads(code: int) -> None:
    """Ends the process with ``code`` if a thread hangs, in an engine for example: Python would wait for it."""
    deadline = time.monotonic() + _AT_ONCE_S
    others = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if hung := [thread.name for thread in others if thread.is_alive()]:
        logger.error("threads hang and are left behind: %s", ", ".join(hung))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket bound to an address; ``shared`` lets processes that ask for the same each have one.

    Raises:
        OSError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def url_of(host: str, port: int, *, tls: bool = False) -> str:
    """Where people find a server that listens there."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{shown}:{port}/"


def _config_of(app: ASGIApp, settings: Settings, tls: Tls | None, shed: Shedding | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_protocol(settings, tls, shed),
        ws="none",
        access_log=False,  # the app writes its own, with the request id
        log_config=None,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=BACKLOG,
        ssl_context_factory=(lambda _config, _default: tls.context) if tls and sys.platform == "win32" else None,
    )


def _protocol(settings: Settings, tls: Tls | None, shed: Shedding | None) -> Any:
    """What uvicorn makes a connection's protocol by; with ``tls`` it sees to that too, but on Windows."""
    if sys.platform == "win32":
        return "h11"  # slower, and bounded by itself; httptools is not for Windows
    from serve.web.bounded_http import BoundedHttp
    from serve.web.tls_door import TlsDoor

    class OfThisServer(BoundedHttp):
        idle = IdleConnections(most_idle(settings.max_idle_connections))
        shedding = shed
        unread_bytes = settings.max_body_bytes  # as of a request that is not refused
        unread_within_s = settings.body_timeout_s

    return OfThisServer if tls is None else partial(TlsDoor, OfThisServer, tls.context)
