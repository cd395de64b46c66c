"""Heads without an end, over a real socket: each is cut off, and costs the server next to nothing."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from serve.app import create_app
from serve.models.repository import Repository
from serve.settings import Settings
from serve.web.bounded_http import MAX_HEAD_BYTES, MAX_PIPELINED, BoundedHttp
from serve.web.http_server import HttpServer
from tests.serve.servers import wait_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = GET + b"Connection: close\r\n\r\n"
HASTE_S = 0.1


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body when all of it has come."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def flood(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers with more than all buffers on the way hold."""
    body = bytes(16 << 20)
    headers = [(b"content-length", str(2 * len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def server(protocol: type[BoundedHttp]) -> Iterator[tuple[str, int]]:
    with running(protocol, echo) as found:
        yield found.servers[0].sockets[0].getsockname()


@contextlib.contextmanager
def running(protocol: type[BoundedHttp], app: ASGIApp) -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(app, http=protocol, port=0, lifespan="off", log_config=None, timeout_keep_alive=60)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        wait_until(lambda: running.started)
        yield running
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with server(BoundedHttp) as found:
        yield found


def sent(address: tuple[str, int], pieces: Iterator[bytes], most_bytes: int) -> tuple[int, bytes]:
    """Sends until the server closes; how much it took, and what it answered."""
    with socket.create_connection(address, timeout=30) as connection:
        taken = 0
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                taken += len(piece)
                assert taken < most_bytes, "the server takes a head without an end"
        return taken, received(connection)


def received(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):  # what is sent on is reset
        while piece := connection.recv(65536):
            answer += piece
    return answer


def endless(first: bytes, piece: bytes) -> Iterator[bytes]:
    yield first
    while True:
        yield piece


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (GET, b"X-Many: " + b"a" * 1000 + b"\r\n"),
        (GET + b"X-One: ", b"a" * 4096),
        (b"GET /", b"a" * 4096),
        (CHUNKED + b"0\r\n", b"X-Trailer: " + b"a" * 1000 + b"\r\n"),
        (CHUNKED + b"1;", b"a" * 4096),
    ],
    ids=["headers", "header", "path", "trailers", "extension of a chunk"],
)
def test_a_head_without_an_end_is_cut_off(address: tuple[str, int], first: bytes, piece: bytes) -> None:
    sent(address, endless(first, piece), 64 << 20)  # of which much lies in the system's own buffers
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(LAST)
        assert received(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("asked", [b"h2c", b"websocket"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_request_that_asks_for_another_protocol_keeps_its_body(
    address: tuple[str, int], asked: bytes, pieces: int
) -> None:
    """As clients in Java do each time they connect."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings, %s\r\nUpgrade: " + asked + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + upgrade % b"Keep-Alive" + b"\r\nbytes"
    chunked = CHUNKED[:-2] + upgrade % b"close" + b"\r\n6\r\nbytes.\r\n0\r\n\r\n"
    data = post + post + chunked
    with socket.create_connection(address, timeout=30) as connection:
        for part in range(pieces):
            connection.sendall(data[len(data) * part // pieces : len(data) * (part + 1) // pieces])
        answer = received(connection)
    assert [one[-1:] for one in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"5", b"5", b"6"]


def test_few_requests_wait_on_a_connection(address: tuple[str, int]) -> None:
    several = GET + b"\r\n"
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(several * MAX_PIPELINED + LAST)  # the first is being answered
        assert received(connection).count(b"HTTP/1.1 200") == MAX_PIPELINED + 1
    with socket.create_connection(address, timeout=30) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(CHUNKED + b"5\r\nbytes\r\n0\r\n\r\n" + several * 2000)
        assert received(connection).count(b"HTTP/1.1 200") < 2000


def test_the_limit_is_said(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(GET + b"X-One: " + b"a" * MAX_HEAD_BYTES)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b"the limit is 65536 bytes\n")


def test_large_heads_and_bodies_within_the_limits_pass(address: tuple[str, int]) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (10_000, b"b" * 10_000) for _ in range(20))
    request = GET.replace(b"GET", b"POST") + b"X-Large: " + b"a" * 32_000 + b"\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(3):  # the count begins anew with each request
            connection.sendall(request + b"\r\n" + body + b"0\r\nX-Trailer: a\r\n\r\n")
        connection.sendall(LAST)
        answer = received(connection)
    assert answer.count(b"HTTP/1.1 200") == 4
    assert answer.count(b"200000") == 3


@contextlib.contextmanager
def connection_in_haste() -> Iterator[socket.socket]:
    """One on which a request was answered; the next must be quick."""

    class Hasty(BoundedHttp):
        pass

    with server(Hasty) as address, socket.create_connection(address, timeout=30) as connection:
        connection.sendall(GET + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n0"):
            answer += connection.recv(65536)
        Hasty.head_within_s = HASTE_S
        yield connection


def test_a_head_that_takes_too_long_is_cut_off() -> None:
    with connection_in_haste() as connection:
        connection.sendall(GET)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"Request Timeout: the headers did not end in 0.1 s\n")


def test_a_body_has_a_time_of_its_own() -> None:
    with connection_in_haste() as connection:
        connection.sendall(CHUNKED + b"5\r\nbytes\r\n")
        for piece in (b"5\r\n", b"bytes", b"\r\n0\r\n"):
            connection.sendall(piece)
            time.sleep(2 * HASTE_S)
        connection.sendall(b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    class Hasty(BoundedHttp):
        head_within_s = HASTE_S

    with server(Hasty) as address, socket.create_connection(address, timeout=30) as connection:
        assert received(connection) == b""


def test_the_server_has_these_bounds(models_dir: Path) -> None:
    settings = Settings(decode_threads=1, engine_threads=1)
    repository = Repository.open(models_dir, settings)
    app = create_app(settings, repository)
    config = HttpServer(app, settings, repository, lambda: None).config
    assert isinstance(config.http, type)
    assert issubclass(config.http, BoundedHttp)
    repository.close()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"], ids=["in its last answer", "in any answer"])
def test_a_client_that_never_reads_is_cut_off(version: bytes) -> None:
    class Hasty(BoundedHttp):
        taken_within_s = HASTE_S

    with running(Hasty, flood) as found, socket.socket() as connection:
        connection.connect(found.servers[0].sockets[0].getsockname())
        connection.sendall(b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        wait_until(lambda: found.server_state.total_requests > 0 or bool(found.server_state.connections), 30)
        wait_until(lambda: not found.server_state.connections and not found.server_state.tasks, 30)


@pytest.mark.parametrize(("left", "many"), [([999, 998], False), ([1000, 1000], True)], ids=["one answer", "many"])
def test_a_client_that_reads_slowly_is_not_cut_off(left: list[int], many: bool) -> None:
    """It takes something of one large answer, or there is always another of many, from look to look."""
    loop, transport = Mock(), Mock(get_extra_info=Mock(return_value=None))
    transport.get_write_buffer_size = Mock(return_value=1000)
    looks: list[Callable[[], None]] = []

    def call_later(_after_s: float, call: Callable[[], None]) -> Mock:
        looks.append(call)
        return Mock()

    async def ask() -> None:
        protocol = BoundedHttp(uvicorn.Config(echo, lifespan="off", log_config=None), ServerState(), {}, loop)
        protocol.connection_made(transport)
        loop.call_later = call_later
        protocol.pause_writing()
        for size in left:
            if many:
                protocol.resume_writing()
                protocol.pause_writing()
            transport.get_write_buffer_size.return_value = size
            looks.pop()()
        transport.abort.assert_not_called()
        looks.pop()()
        transport.abort.assert_called_once()

    asyncio.run(ask())
    assert not looks


@pytest.mark.parametrize("behind", [b"nothing of HTTP\r\n\r\n", 50 * (GET + b"\r\n")], ids=["wrong", "too many"])
@pytest.mark.parametrize("whole", [1, 3])
def test_what_is_wrong_behind_a_request_is_not_its_answer(behind: bytes, whole: int) -> None:
    """A proxy would give the 400 to whoever sent the request, and that was right."""
    gate = threading.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        await echo(scope, receive, send)

    with running(BoundedHttp, wait) as found:
        with socket.create_connection(found.servers[0].sockets[0].getsockname(), timeout=30) as connection:
            connection.sendall(whole * (GET + b"\r\n") + behind)
            try:
                wait_until(lambda: any(one.cycle is not None for one in found.server_state.connections), 30)
            finally:
                gate.set()  # the server ends when all is answered
            statuses = re.findall(rb"HTTP/1.1 (\d+)", received(connection))
        assert statuses == [b"200"] * (whole if behind.startswith(b"nothing") else MAX_PIPELINED + 1)


def test_nothing_is_kept_for_a_connection_that_was_reset() -> None:
    timers: list[Mock] = []

    def call_later(_after_s: float, _call: object) -> Mock:
        timers.append(Mock())
        return timers[-1]

    transport = Mock(get_extra_info=Mock(return_value=None), is_closing=Mock(return_value=False))
    transport.get_write_buffer_size = Mock(return_value=0)
    config = uvicorn.Config(echo, lifespan="off", log_config=None)
    protocol = BoundedHttp(config, ServerState(), {}, Mock(call_later=call_later))
    protocol.connection_made(transport)
    protocol.on_response_complete()
    protocol.connection_lost(ConnectionResetError())
    assert len(timers) == 2, "for the first head, and for the next"
    assert all(timer.cancel.called for timer in timers)


def test_a_request_hears_that_its_client_left_whatever_came_behind_it() -> None:
    """Uvicorn tells the request that came last."""
    begun, told = threading.Event(), threading.Event()

    async def wait(_scope: Scope, receive: Receive, _send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    with running(BoundedHttp, wait) as found:
        with socket.create_connection(found.servers[0].sockets[0].getsockname()) as connection:
            connection.sendall(2 * (GET + b"\r\n"))
            assert begun.wait(30)
            wait_until(lambda: all(protocol.pipeline for protocol in found.server_state.connections), 30)
        assert told.wait(30)
