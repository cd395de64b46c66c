"""Connections that are kept open: long enough for load balancers and pools, and never too many at a time."""

import asyncio
import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serve.app import create_app
from serve.models.repository import Repository
from serve.settings import Settings
from serve.web.bounded_http import BoundedHttp
from serve.web.http_server import HttpServer
from serve.web.idle import IdleConnections, most_idle
from tests.serve.servers import wait_until
from tests.serve.test_bounded_http import GET, echo, received, running
from tests.serve.test_cli import program
from tests.serve.test_tls import Issued

MOST = 3
ASK = GET + b"\r\n"


@contextlib.contextmanager
def bounded(app: object = echo) -> Iterator[tuple[uvicorn.Server, IdleConnections]]:
    class Bounded(BoundedHttp):
        idle = IdleConnections(MOST)

    with running(Bounded, app) as server:  # type: ignore[arg-type]
        yield server, Bounded.idle


def connect(server: uvicorn.Server) -> socket.socket:
    return socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=30)


def ask(connection: socket.socket) -> None:
    connection.sendall(ASK)
    assert_answered(connection)


def assert_answered(connection: socket.socket) -> None:
    """An answer's head and body come together or one after the other."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n0"):
        answer += (piece := connection.recv(65536))
        assert piece, f"the connection was closed after {answer!r}"


@pytest.mark.parametrize("said", [b"", b"GET / HT", None], ids=["nothing", "half a head", "a request"])
def test_of_too_many_idle_connections_the_one_idle_longest_is_closed(said: bytes | None) -> None:
    with bounded() as (server, idle), contextlib.ExitStack() as stack:
        connections = []
        for number in range(MOST):
            connections.append(stack.enter_context(connect(server)))
            if said is None:
                ask(connections[-1])
            else:
                connections[-1].sendall(said)
            wait_until(lambda number=number: len(idle) == number + 1)  # type: ignore[misc]
        if said is None:
            ask(connections[0])  # and is no longer the one idle longest
        longest = connections[1 if said is None else 0]
        ask(stack.enter_context(connect(server)))
        assert received(longest) == b""
        if said is None:
            ask(connections[0])
        wait_until(lambda: len(idle) == MOST)
    assert len(idle) == 0


def test_a_connection_that_is_being_answered_is_not_idle() -> None:
    held, gate = threading.Event(), threading.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            held.set()
            assert await asyncio.to_thread(gate.wait, 30)
        await echo(scope, receive, send)

    with bounded(answer) as (server, idle), contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(server))
        first.sendall(ASK.replace(b"/ ", b"/held "))
        assert held.wait(30)
        for _ in range(2 * MOST):
            ask(stack.enter_context(connect(server)))
        wait_until(lambda: len(idle) == MOST)
        gate.set()
        assert_answered(first)


def test_the_settings_reach_the_server(models_dir: Path) -> None:
    settings = Settings(decode_threads=1, engine_threads=1, keep_alive_s=90, max_idle_connections=7)
    repository = Repository.open(models_dir, settings)
    config = HttpServer(create_app(settings, repository), settings, repository, lambda: None).config
    assert config.timeout_keep_alive == 90
    assert isinstance(config.http, type)
    assert issubclass(config.http, BoundedHttp)
    assert config.http.idle is not None
    assert config.http.idle.most == 7
    repository.close()
    assert Settings().keep_alive_s > 60  # AWS's and Google's balancers keep theirs for so long


def test_idle_connections_leave_files_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for limit, most in ((1024, 512), (1 << 20, 2048), (1, 1), (resource.RLIM_INFINITY, 2048)):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, limit=limit: (limit, limit))
        assert most_idle(0) == most
        assert most_idle(5000) == 5000


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_drain_closes_idle_connections_at_once(models_dir: Path, tmp_path: Path, tls: bool) -> None:
    pytest.importorskip("trustme")
    issued = Issued(tmp_path, "server")
    flags = ("--tls-cert", str(issued.cert), "--tls-key", str(issued.key)) if tls else ()
    with program(models_dir, "--drain-s", "600", "--keep-alive-s", "600", *flags) as (process, url):
        at = urlsplit(url)
        with socket.create_connection((at.hostname, at.port), timeout=60) as plain:
            context = ssl.create_default_context(cafile=issued.ca)
            connection = context.wrap_socket(plain, server_hostname=at.hostname) if tls else plain
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0  # the client says nothing more
            connection.close()


@pytest.mark.parametrize(("scheme", "unsent", "aborts"), [("https", 0, 1), ("https", 1, 0), ("http", 0, 0)])
def test_a_client_that_does_not_take_leave_is_not_waited_for(scheme: str, unsent: int, aborts: int) -> None:
    """TLS wants both sides to say that they end, and asyncio waits 30 s for it; what is unsent goes first."""
    loop, transport = Mock(), Mock(get_extra_info=Mock(return_value=None))
    transport.get_write_buffer_size = Mock(return_value=unsent)
    config = uvicorn.Config(echo, lifespan="off", log_config=None)
    protocol = BoundedHttp(config, ServerState(), {}, loop)
    protocol.connection_made(transport)
    protocol.scheme = scheme
    loop.call_later.reset_mock()
    protocol.shutdown()
    transport.close.assert_called_once_with()
    calls = [call.args for call in loop.call_later.mock_calls]
    assert [seconds for seconds, _ in calls] == aborts * [protocol.farewell_s]
    for _, call in calls:
        call()
    assert transport.abort.call_count == aborts
