"""The few ASGI moves that the hot path makes itself: read a body under a cap, answer, and hang up politely."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from serve.admission import Admission
from serve.errors import BodyTimeout, RequestError, TooLarge

_LINGER_S = 5.0
_PIECE_BYTES = 1 << 20


class ClientGone(Exception):
    """The client closed the connection, or does not read: nobody waits for an answer."""


def header_list(scope: Scope, name: bytes) -> str:
    """All headers called ``name`` (lower case) as one comma-separated list, which they are by RFC 9110."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def header(scope: Scope, name: bytes) -> str:
    """The first header called ``name`` (lower case), or an empty string."""
    return optional_header(scope, name) or ""


def optional_header(scope: Scope, name: bytes) -> str | None:
    """The first header called ``name`` (lower case), which may be empty, or None."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


class Body:
    """A request body on its way into memory: under a cap, under a deadline, and counted while it is held."""

    def __init__(self, scope: Scope, receive: Receive, admission: Admission, max_bytes: int, timeout_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._admission = admission
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.size = 0
        self.complete = False

    async def read(self) -> bytes:
        """Returns the whole body.

        Raises:
            TooLarge: it is over the cap, by its Content-Length or by its bytes, whichever shows it first.
            BodyTimeout: it did not arrive in time.
            ClientGone: the client went away.
        """
        declared = header(self._scope, b"content-length")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large(f"{declared} bytes")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read()
        except TimeoutError:
            raise BodyTimeout(
                "body_timeout",
                f"{self.size} bytes of the body came in {self._timeout_s:g} s, and not its end",
                "send the request again over a faster connection, or send a smaller picture",
                headers={"Connection": "close"},
            ) from None

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            self.complete = not message.get("more_body", False)
            if self.size + len(chunk) > self._max_bytes:
                raise self._too_large(f"over {self._max_bytes} bytes")
            self._admission.buffer(len(chunk))
            self.size += len(chunk)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, came: str) -> TooLarge:
        return TooLarge(
            "body_too_large",
            f"the body has {came}, the limit is {self._max_bytes}",
            "send a smaller or more strongly compressed picture, or fewer per request",
            headers={"Connection": "close"},
        )

    def release(self) -> None:
        """Gives the memory back."""
        self._admission.unbuffer(self.size)
        self.size = 0

    async def discard(self) -> None:
        """Reads on without keeping anything, for a while.

        Closing a connection on a client that is still sending resets it, and the client may never see the answer.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self.complete:
                    message = await self._receive()
                    self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def server_timing(stages_s: Mapping[str, float]) -> str:
    """The Server-Timing header of stages in seconds."""
    return ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages_s.items())


async def send_json(
    send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, more: bool = False
) -> None:
    """Sends a JSON response; with ``more`` its end is left to ``end``."""
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if headers:
        raw += raw_headers(headers)
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_bytes(send: Send, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """Sends a large body with status 200; ``timeout_s`` is that of ``send_pieces``."""
    raw = [*raw_headers(headers), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    await send_pieces(send, body, timeout_s)


async def send_pieces(send: Send, body: bytes, timeout_s: float) -> None:
    """Sends the rest of a response piece by piece: a slow client must not make the server hold it twice.

    Raises:
        ClientGone: a piece was not taken within ``timeout_s``. Whoever asks and never reads would hold it forever.
    """
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        try:
            async with asyncio.timeout(timeout_s):
                await send({"type": "http.response.body", "body": piece, "more_body": start + _PIECE_BYTES < len(body)})
        except TimeoutError:
            raise ClientGone from None


async def send_error(send: Send, error: RequestError, request_id: str, path: str, body: Body | None = None) -> None:
    """Sends an error; if it closes the connection on an unread body, it lingers first."""
    linger = body is not None and not body.complete and error.headers.get("Connection") == "close"
    await send_json(send, error.status, error.body(request_id, path), error.headers, more=linger)
    if body is not None and linger:
        await body.discard()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
