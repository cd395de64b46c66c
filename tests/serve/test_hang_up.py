"""A client that hangs up is noticed while its answer is made, under the server's own protocol and any other."""

import asyncio
import socket
import threading

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve.web.asgi import ClientGone
from serve.web.bounded_http import BoundedHttp
from serve.web.hang_up import HANG_UP, Client, HangUp
from tests.serve.test_bounded_http import GET, running


class Waiting:
    """An app that reads a request's body, and then waits for what never comes, until its client is gone."""

    def __init__(self, *, own: bool) -> None:
        self.own = own
        self.begun, self.gone = threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        assert HANG_UP in scope
        known = scope if self.own else {}
        finished = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self.begun.set)
        try:
            await Client(known, receive).unless_gone(finished)
        except ClientGone:
            self.gone.set()


# A body of this size makes uvicorn pause its reading, and who does not read does not see the end.
@pytest.mark.parametrize("size", [0, 1 << 20])
@pytest.mark.parametrize("behind", [b"", GET + b"\r\n"])
@pytest.mark.parametrize("own", [True, False])
def test_a_client_that_hangs_up_is_noticed(own: bool, behind: bytes, size: int) -> None:
    """Also with a request behind the one that is answered."""
    app = Waiting(own=own)
    with running(BoundedHttp, app) as server:
        with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=30) as connection:
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            connection.sendall(head + bytes(size) + behind)
            assert app.begun.wait(30)
        assert app.gone.wait(30)


def test_who_hung_up_before_is_not_waited_for() -> None:
    async def play() -> None:
        hang_up = HangUp(lambda: None)
        hang_up.happen()
        with pytest.raises(ClientGone):
            await Client({HANG_UP: hang_up}, _never).unless_gone(asyncio.get_running_loop().create_future())

    asyncio.run(play())


def test_an_answer_stays_an_answer_if_the_client_leaves_with_it() -> None:
    async def play() -> None:
        hang_up = HangUp(lambda: None)
        finished = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(Client({HANG_UP: hang_up}, _never).unless_gone(finished))
        await asyncio.sleep(0)
        finished.set_result(None)
        hang_up.happen()
        await waiting
        hang_up.happen()  # and afterwards nobody is told

    asyncio.run(play())


async def _never() -> Message:
    raise AssertionError("nothing is to be received where the connection tells")
