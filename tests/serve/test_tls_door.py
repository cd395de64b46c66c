"""Handshakes of TLS without an end, over a real socket: they have their time, and are idle connections among others."""

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn

from serve.app import create_app
from serve.models.repository import Repository
from serve.settings import Settings
from serve.web.bounded_http import BoundedHttp
from serve.web.http_server import HttpServer
from serve.web.idle import IdleConnections
from serve.web.tls_door import TlsDoor
from tests.serve.servers import wait_until
from tests.serve.test_bounded_http import GET, echo, received
from tests.serve.test_tls import Issued

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there uvicorn sees to TLS")

MOST = 3
HELLO = b"\x16\x03\x01\x02\x00\x01"  # how a handshake begins
ASK = GET + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    pytest.importorskip("trustme")
    return Issued(tmp_path_factory.mktemp("tls"), "server")


@dataclass
class Served:
    """A server with TLS in a thread of its own."""

    server: uvicorn.Server
    idle: IdleConnections
    issued: Issued

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.servers[0].sockets[0].getsockname(), timeout=30)

    def ask(self) -> bytes:
        context = ssl.create_default_context(cafile=self.issued.ca)
        with self.connect() as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(ASK)
            return received(connection)


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def served(issued: Issued, loop: Any, door: type[TlsDoor]) -> Iterator[Served]:
    class Bounded(BoundedHttp):
        idle = IdleConnections(MOST)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.cert, issued.key)
    http = cast(Any, partial(door, Bounded, context))
    server = uvicorn.Server(uvicorn.Config(echo, http=http, loop=loop, port=0, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Served(server, Bounded.idle, issued)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "it waits for handshakes that nobody ends"


class Hasty(TlsDoor):
    within_s = 0.1


class Patient(TlsDoor):
    within_s = 600


@pytest.mark.parametrize("said", [b"", HELLO], ids=["nothing", "half a hello"])
def test_a_handshake_that_does_not_end_is_cut(issued: Issued, loop: Any, said: bytes) -> None:
    with served(issued, loop, Hasty) as one, one.connect() as connection:
        connection.sendall(said)
        assert received(connection) == b""
        wait_until(lambda: len(one.idle) == 0)


def test_of_too_many_handshakes_the_oldest_is_closed_and_who_goes_on_is_answered(issued: Issued, loop: Any) -> None:
    with contextlib.ExitStack() as stack, served(issued, loop, Patient) as one:  # which ends while clients wait
        waiting = []
        for number in range(MOST):
            waiting.append(stack.enter_context(one.connect()))
            waiting[-1].sendall(HELLO)
            wait_until(lambda number=number: len(one.idle) == number + 1)  # type: ignore[misc]
        assert one.ask().endswith(b"\r\n\r\n0")
        assert received(waiting[0]) == b""
        wait_until(lambda: len(one.idle) == MOST - 1)
    assert len(one.idle) == 0


def test_what_is_no_handshake_is_closed(issued: Issued, loop: Any) -> None:
    with served(issued, loop, TlsDoor) as one, one.connect() as connection:
        connection.sendall(ASK)
        assert b"200 OK" not in received(connection)
        wait_until(lambda: len(one.idle) == 0)
        assert one.ask().endswith(b"\r\n\r\n0")


def test_the_server_has_the_door(models_dir: Path, issued: Issued) -> None:
    settings = Settings(
        decode_threads=1, engine_threads=1, tls_cert=issued.cert, tls_key=issued.key, max_idle_connections=7
    )
    repository = Repository.open(models_dir, settings)
    config = HttpServer(create_app(settings, repository), settings, repository, lambda: None).config
    assert isinstance(config.http, partial)
    door, (http, _) = config.http.func, config.http.args
    assert door is TlsDoor
    assert http.idle.most == 7
    assert TlsDoor.within_s <= 60
    repository.close()
