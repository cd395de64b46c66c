"""Writes of one turn of the event loop go out together, in their order, and none is lost."""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from serve.web.bounded_http import BoundedHttp
from serve.web.joined_writes import JoinedWrites
from tests.serve.test_bounded_http import running


class Wire(asyncio.Transport):
    """Keeps what it is given, piece by piece as it would go out."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.sent: list[bytes] = []
        self.ended = ""

    def write(self, data: Any) -> None:
        assert not self.ended
        self.sent.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def get_write_buffer_size(self) -> int:
        return 0


@given(st.lists(st.lists(st.tuples(st.binary(max_size=5), st.booleans()), max_size=4), max_size=6))
def test_all_is_sent_in_order_and_no_later_than_the_next_turn(turns: list[list[tuple[bytes, bool]]]) -> None:
    async def play() -> None:
        wire = Wire()
        joined = JoinedWrites(wire, asyncio.get_running_loop())
        given = b""
        for pieces in turns:
            for piece, whole in pieces:
                (joined.write_whole if whole else joined.write)(piece)
                given += piece
                assert len(b"".join(wire.sent)) + joined.get_write_buffer_size() == len(given)
                assert not whole or b"".join(wire.sent) == given
            await asyncio.sleep(0)
            assert b"".join(wire.sent) == given

    asyncio.run(play())


def test_a_head_and_its_body_are_one_piece() -> None:
    async def play() -> list[bytes]:
        wire = Wire()
        joined = JoinedWrites(wire, asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        return wire.sent

    assert asyncio.run(play()) == [b"head body"]


@pytest.mark.parametrize(("end", "sent"), [("close", [b"last"]), ("abort", [])])
def test_what_is_held_goes_before_the_end_and_nothing_after_it(end: str, sent: list[bytes]) -> None:
    async def play() -> Wire:
        wire = Wire()
        joined = JoinedWrites(wire, asyncio.get_running_loop())
        joined.write(b"last")
        getattr(joined, end)()
        assert joined.is_closing()
        await asyncio.sleep(0)
        return wire

    assert asyncio.run(play()).sent == sent


def test_what_is_held_when_the_client_hangs_up_is_dropped() -> None:
    """A transport whose connection is gone raises at a write."""

    async def play() -> Wire:
        wire = Wire()
        joined = JoinedWrites(wire, asyncio.get_running_loop())
        joined.write(b"too late")
        wire.close()
        await asyncio.sleep(0)
        return wire

    assert asyncio.run(play()).sent == []


def test_the_rest_is_the_transports_own() -> None:
    transport = Mock()
    joined = JoinedWrites(transport, Mock())
    joined.pause_reading()
    transport.pause_reading.assert_called_once_with()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_does_not_wait_for_its_body(method: str) -> None:
    """Nor does a part of the body wait for the next: each is made when the client has what was before."""
    has_it = threading.Semaphore(0)
    parts = [b"0", b"1", b"2"]

    async def in_lockstep(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-first", b"1")]})
        for part in parts:
            await asyncio.to_thread(has_it.acquire)
            await send({"type": "http.response.body", "body": part, "more_body": part is not parts[-1]})

    with running(BoundedHttp, in_lockstep) as server:
        host, port = server.servers[0].sockets[0].getsockname()
        came = []
        try:
            with httpx.stream(method, f"http://{host}:{port}/", timeout=30) as answer:
                assert answer.headers["x-first"] == "1"
                has_it.release()
                for part in answer.iter_raw():
                    came.append(part)
                    has_it.release()
        finally:
            has_it.release(len(parts))
    assert came == (parts if method == "GET" else [])
