"""HTTP/1.1 as uvicorn parses it, with bounds on all that is no body.

Uvicorn keeps a head of any size and as many requests as come in one piece, its parser copies an unfinished header whole
with every piece, and a connection that says nothing, or whose client never reads what it asked for, stays open: each
lets one client without a key stop the server.
"""

import asyncio
import http
from collections.abc import Callable
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serve.web.hang_up import HANG_UP, HangUp
from serve.web.idle import IdleConnections
from serve.web.joined_writes import JoinedWrites
from serve.web.shedding import Shedding
from serve.web.unread import Unread

MAX_HEAD_BYTES = 64 << 10
MAX_PIPELINED = 16
"""Requests that may follow on a connection before one is answered; each takes a hundred times its bytes in memory."""


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol, which closes connections whose request line and headers are too large or too slow.

    It answers those who ask for another protocol, such as HTTP/2, in this one; uvicorn loses their bodies.

    The bytes since the parser last had something whole are counted, so that headers after a chunked body and the
    extensions of its chunks are bounded too.
    """

    head_within_s = 30.0
    """From the connection, or the first byte of a later request on it, to the end of the headers."""
    taken_within_s = 60.0
    """In which a client must take something of what waits to be sent to it."""

    unread_bytes = 64 << 20
    """Of a body that are taken, and thrown away, past the answer to its request."""
    unread_within_s = 30.0
    """In which they must come."""

    farewell_s = 1.0
    """In which a client must take leave where TLS asks it to."""
    idle: ClassVar[IdleConnections | None] = None
    """Of the server; none is closed for another without it."""
    shedding: ClassVar[Shedding | None] = None
    """Asked before the app is."""
    on_made: Callable[[], object] | None = None
    """Called when the connection is made, of TLS after the handshake."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unfinished = 0  # bytes
        self._timer: asyncio.TimerHandle | None = None
        self._begun: RequestResponseCycle | None = None  # of those that came, the one that is being answered
        self._hang_up: HangUp  # its client's
        self._unsent = 0  # bytes, when that was last looked at
        self._moves = 0  # signs since then that the client takes what is sent, or at least asks for more
        self._look: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._shed = False  # whether the request whose body comes has its answer from there
        self._shed_at_once = 0  # of what came in one piece
        self._past_answer = False  # whether a body comes whose request is answered
        self._unread: Unread | None = None  # what has come of it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        if self.on_made is not None:
            self.on_made()
            self.on_made = None
        super().connection_made(transport)
        joined = JoinedWrites(transport, self.loop, self._lingers)
        self.transport = joined  # type: ignore[assignment]  # it has all that is used here
        self._start_timer()
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finished()
        if self.idle is not None:
            self.idle.discard(self)
        for timer in (self._look, self._farewell):
            if timer is not None:
                timer.cancel()
        if self._unread is not None:
            self._unread.forget()
        self._unset_keepalive_if_required()  # uvicorn keeps it, and all of this with it, if the client resets
        super().connection_lost(exc)
        if self._begun is not None and not self._begun.response_complete:  # uvicorn tells the last of several only
            self._begun.disconnected = True
            self._begun.message_event.set()
            self._hang_up.happen()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._begun = cycle
        self._hang_up = HangUp(self.flow.resume_reading)
        cycle.scope[HANG_UP] = self._hang_up  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unsent()

    def resume_writing(self) -> None:
        self._moves += 1
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._moves += 1
        if not self._answering and not self.transport.is_closing():
            self._rest()
        self._watch_unsent()  # the connection may be closing, and does so only when all is sent

    def data_received(self, data: bytes) -> None:
        if self._unread is not None and self._unread.leaving:
            self._unread.take(len(data))
            return
        cycle = self.cycle
        self._past_answer = self._shed or (cycle is not None and cycle.response_complete and cycle.more_body)
        self._unfinished += len(data)
        self._shed_at_once = 0
        self._feed(data)
        if self.transport.is_closing():
            return
        if self._past_answer and self._takes_leave_after(len(data)):
            return
        if not self._unfinished:
            self._keep_alive_for_a_while()
        elif self._unfinished > MAX_HEAD_BYTES:
            self._refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the limit is {MAX_HEAD_BYTES} bytes")
        elif self._timer is None and not self._answering:  # else the time for the body counts
            self._start_timer()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            [end_of_head] = upgrade.args
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + data[end_of_head:])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    @property
    def _asks_for_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        """The head of a request that may as well be answered in HTTP/1.1; some clients ask each time they connect."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.split(b","))
                value = b", ".join(token for token in tokens if token.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_headers_complete(self) -> None:
        self._finished()
        if self._asks_for_upgrade:
            return  # the parser takes what follows for another protocol
        if len(self.pipeline) == MAX_PIPELINED:
            raise OverflowError("too many requests wait on this connection")  # the parser ends with it
        if self.idle is not None:
            self.idle.discard(self)
        if self.shedding is None or not self._at_rest or not self._is_refused(self.shedding):
            self._unset_keepalive_if_required()  # set by a refusal whose end came in one piece with this head
            super().on_headers_complete()

    @property
    def _at_rest(self) -> bool:
        """Whether all before is answered, little of it just now, and an answer leaves at once and ends nothing."""
        return not (
            self._answering
            or self.flow.write_paused
            or self._shed_at_once == MAX_PIPELINED  # thousands fit into one piece, and all others would wait for them
            or self.transport.is_closing()
            or not self.parser.should_keep_alive()
            or self.parser.get_http_version() != "1.1"
            or any(name == b"connection" for name, _ in self.server_state.default_headers)  # as when it is to close
        )

    def _is_refused(self, shedding: Shedding) -> bool:
        """Whether the request is turned away by its head; then its answer is sent."""
        answer = shedding.answer(self.parser.get_method(), self.url, self.scope)  # type: ignore[arg-type]  # a dict
        if answer is None:
            return False
        status, headers, body = answer
        head = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            head += (name, b": ", value, b"\r\n")
        head += (b"\r\n", body)
        self.transport.write_whole(b"".join(head))  # type: ignore[attr-defined]  # of JoinedWrites
        self._shed = True
        self._shed_at_once += 1
        self.on_response_complete()
        return True

    def send_400_response(self, msg: str) -> None:
        if self._answering and not self.cycle.more_body:
            self.cycle.keep_alive = False  # what came whole is answered first, and this would be taken for its answer
        elif self._shed or (self._answering and (self.cycle.response_started or self.cycle is not self._begun)):
            self.transport.close()  # it would be taken for the rest of the answer, or for that to another request
        else:
            super().send_400_response(msg)

    def on_body(self, body: bytes) -> None:
        self._finished()
        if not self._shed:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._finished()
        self._unread, self._past_answer = None, False
        if self._shed:
            self._shed = False
        elif not self._asks_for_upgrade:
            super().on_message_complete()
            self.cycle.more_body = False  # uvicorn does not say so once the answer is complete

    def _takes_leave_after(self, size: int) -> bool:
        """Takes note of a piece of a body that came past its answer; whether it is one too many."""
        if self._unread is None:
            self._unread = self._new_unread()
        self._unread.take(size)
        return self._unread.leaving

    def _lingers(self) -> bool:
        """Whether a connection that ends with its answer is kept for the rest of the body that comes."""
        cycle, closing = self.cycle, self.transport.is_closing()
        if closing or cycle is None or cycle.keep_alive or not (cycle.response_complete and cycle.more_body):
            return False
        self._unread = self._new_unread()
        self._unread.take_leave()
        self.flow.resume_reading()
        self._rest()
        return True

    def _new_unread(self) -> Unread:
        transport: JoinedWrites = self.transport  # type: ignore[assignment]  # what was made of uvicorn's
        return Unread(transport, self.loop, self.unread_bytes, self.unread_within_s, self.hang_up)

    def _keep_alive_for_a_while(self) -> None:
        """Lets a connection rest after what came of a body that was not waited for; it ended the time until then."""
        if not self._answering and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _watch_unsent(self) -> None:
        if self._look is None:
            self._moves = 0
            self._unsent = self.transport.get_write_buffer_size()
            self._look = self.loop.call_later(self.taken_within_s, self._look_at_unsent) if self._unsent else None

    def _look_at_unsent(self) -> None:
        self._look = None
        if not self._moves and self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch_unsent()

    def _rest(self) -> None:
        if self.idle is not None:
            self.idle.add(self)

    def shutdown(self) -> None:
        if self._answering:
            super().shutdown()  # after the answer
        else:
            self.hang_up()

    def timeout_keep_alive_handler(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Closes a connection on which nothing is being answered."""
        self.transport.close()
        if self.scheme == "https" and not self.transport.get_write_buffer_size():
            # A client that does not take leave, as TLS has it, would be waited for, and keep the server from ending.
            self._farewell = self.loop.call_later(self.farewell_s, self.transport.abort)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _finished(self) -> None:
        self._unfinished = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.head_within_s, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(http.HTTPStatus.REQUEST_TIMEOUT, f"the headers did not end in {self.head_within_s:g} s")

    def _refuse(self, status: http.HTTPStatus, why: str) -> None:
        # Where nothing was asked, or all is answered, nothing is; in the middle of an answer it would seem its rest.
        if self._unfinished and not self._answering and not self._shed:
            body = f"{status.phrase}: {why}\n".encode()
            head = f"content-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
