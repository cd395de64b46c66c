"""Bodies that go on when their request is answered, over real sockets: read so that the answer is, but not for ever."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve.web.bounded_http import BoundedHttp
from serve.web.unread import Unread
from tests.serve.servers import wait_until
from tests.serve.test_bounded_http import received, running

SHED, ANSWER = "/shed", b"refused"
MOST_BYTES = 1 << 20
LARGE = 32 << 20  # more than all buffers on the way hold


async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


class Bounded(BoundedHttp):
    """With bounds of a few bytes or moments, where a test says so."""

    shedding = Mock(answer=lambda _method, url, _scope: (429, [], b"") if url == SHED.encode() else None)


@contextmanager
def server(**bounds: float) -> Iterator[tuple[uvicorn.Server, socket.socket]]:
    with (
        running(type("ThisBounded", (Bounded,), bounds), refuse) as found,
        socket.create_connection(found.servers[0].sockets[0].getsockname(), timeout=60) as connection,
    ):
        yield found, connection


def head(path: str, *headers: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: x", b"Transfer-Encoding: chunked", *headers]
    return b"\r\n".join([*lines, b"", b""])


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, bytes(size))


def answered(connection: socket.socket, path: str) -> None:
    """Takes one whole answer."""
    came, end = b"", b"\r\n\r\n" if path == SHED else ANSWER
    while not came.endswith(end):
        piece = connection.recv(65536)
        assert piece, came
        came += piece
    assert came.startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize("path", [SHED, "/app"])
def test_a_body_without_an_end_is_taken_leave_of(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the way to the client is closed: it is not reset, and reads its answer and the end behind it."""
    monkeypatch.setattr(Unread, "silent_s", 60.0)
    with server(unread_bytes=MOST_BYTES) as (found, connection):
        connection.sendall(head(path))
        answered(connection, path)
        connection.sendall(chunk(MOST_BYTES))
        assert connection.recv(1) == b""
        connection.sendall(chunk(1))
        assert found.server_state.connections
        with pytest.raises(ConnectionError):
            connection.sendall(bytes(LARGE))
        wait_until(lambda: not found.server_state.connections, 30)


@pytest.mark.parametrize("path", [SHED, "/app"])
def test_a_body_that_takes_too_long_is_taken_leave_of(path: str) -> None:
    with server(unread_within_s=0.0) as (found, connection):
        connection.sendall(head(path))
        answered(connection, path)
        connection.sendall(chunk(1))
        assert connection.recv(1) == b""
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: not found.server_state.connections, 30)


@pytest.mark.parametrize("path", [SHED, "/app"])
def test_a_connection_goes_on_behind_a_body_within_the_bounds(path: str) -> None:
    """Its bytes are counted anew for each request."""
    with server(unread_bytes=MOST_BYTES) as (_, connection):
        for _ in range(4):
            connection.sendall(head(path))
            answered(connection, path)
            connection.sendall(chunk(MOST_BYTES // 2) + b"0\r\n")
            connection.sendall(b"\r\n")


def test_who_ends_the_connection_with_a_large_body_reads_the_answer() -> None:
    """As Python's urllib and HTTP/1.0 do. To close on what is still being sent would reset them."""
    with server() as (found, _):
        host, port = found.servers[0].sockets[0].getsockname()
        client = http.client.HTTPConnection(host, port, timeout=60)
        client.request("POST", "/app", bytes(LARGE), {"Connection": "close"})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (429, ANSWER)
        client.close()


@pytest.mark.parametrize("path", [SHED, "/app"])
def test_who_says_nothing_after_leave_was_taken_is_closed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unread, "silent_s", 0.05)
    with server(unread_within_s=0.0) as (found, connection):
        connection.sendall(head(path))
        answered(connection, path)
        connection.sendall(chunk(1))
        wait_until(lambda: len(found.server_state.connections) == 0, 30)
        with suppress(ConnectionError):
            assert received(connection) == b""


def left(loop: Mock, transport: Mock, hang_up: Mock) -> Unread:
    loop.time.return_value = 0.0
    unread = Unread(transport, loop, 100, 30.0, hang_up)
    unread.take_leave()
    return unread


@pytest.mark.parametrize("came", [0, 1])
def test_after_leave_a_client_keeps_its_connection_only_while_it_sends(came: int) -> None:
    loop, transport, hang_up = Mock(), Mock(), Mock()
    unread = left(loop, transport, hang_up)
    transport.close_half.assert_called_once()
    for _ in range(3):
        (_, look, before), _ = loop.call_later.call_args
        unread.take(came)
        look(before)
        assert hang_up.called == (came == 0)
    loop.time.return_value = 30.0
    (_, look, before), _ = loop.call_later.call_args
    unread.take(1)
    look(before)
    assert hang_up.called


def test_what_comes_after_leave_is_bounded_too() -> None:
    hang_up = Mock()
    unread = left(Mock(), Mock(), hang_up)
    unread.take(100)
    hang_up.assert_not_called()
    unread.take(1)
    hang_up.assert_called_once()
