"""Answers on their way to clients that are slow, or that never read."""

import asyncio

import pytest
from starlette.types import Message

from serve.web.asgi import ClientGone, send_bytes, send_pieces


class Client:
    """Takes so many messages at once, and no more."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        if len(self.messages) == self.takes:
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages if message["type"] == "http.response.body")


@pytest.mark.parametrize("size", [1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_a_large_body_arrives_in_pieces(size: int) -> None:
    client, body = Client(99), bytes(range(256)) * (size // 256 + 1)
    asyncio.run(send_bytes(client.send, body[:size], {"Content-Type": "image/png"}, 5.0))
    assert client.body == body[:size]
    assert (b"content-length", str(size).encode()) in client.messages[0]["headers"]
    more = [message["more_body"] for message in client.messages[1:]]
    assert more == [True] * (len(more) - 1) + [False]
    assert max(len(message["body"]) for message in client.messages[1:]) <= 1 << 20


@pytest.mark.parametrize("takes", [0, 2])
def test_a_client_that_never_reads_is_given_up(takes: int) -> None:
    client = Client(takes)
    with pytest.raises(ClientGone):
        asyncio.run(send_pieces(client.send, bytes(5 << 20), 0.05))
    assert len(client.body) == takes << 20
