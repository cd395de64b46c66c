"""The one middleware, pure ASGI: request id, access log, request metrics, last line of defence.

Starlette's ``BaseHTTPMiddleware`` would hide disconnects from the routes and cost a task per request.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import NotReady, internal_error
from serve.monitoring.metrics import Metrics, Outcome
from serve.monitoring.tracing import Tracing
from serve.web.asgi import ClientGone, header, raw_headers, send_error

logger = logging.getLogger("serve.access")

REQUEST_ID = "skipvit.request_id"
# What a route leaves here ends up in the access log; "model" also labels the request's metrics, and "route" stands
# there for the path of a route that has many.
NOTES = "skipvit.notes"

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_CLOSED = 499  # nginx's number for a client that did not wait; logged, never sent


class Book:
    """Where every request that is over is entered: in the metrics, and in the access log.

    Requests for ``quiet`` paths are logged only where they fail: balancers and dashboards ask every second.
    """

    def __init__(self, metrics: Metrics, access_log: bool, quiet: Collection[str] = ()) -> None:
        self.metrics = metrics
        self._access_log = access_log
        self._quiet = frozenset(quiet)

    def enter(self, scope: Scope, route: str, status: int, seconds: float, notes: dict[str, Any]) -> None:
        """Enters one; ``route`` is one of our own paths, never the client's."""
        path = scope["path"]
        model, outcome = notes.get("model", ""), outcome_of(status)
        self.metrics.request(model, notes.get("version", ""), route, outcome)
        if model:
            self.metrics.stage("total", seconds, model)
            if outcome == "ok":
                self.metrics.recent.answered(seconds)
        said = status >= 400 or path not in self._quiet
        if said and self._access_log and logger.isEnabledFor(logging.INFO):
            fields = {
                "request_id": scope[REQUEST_ID],
                "method": scope["method"],
                "path": path[:256],
                "status": status,
                "ms": round(seconds * 1000, 2),
                "client": scope["client"][0] if scope.get("client") else None,
                **notes,
            }
            logger.info("request", extra={"fields": fields})


class Doorway:
    """Wraps every HTTP request on its way in and out; every answer has ``headers``, and every request is booked."""

    def __init__(
        self,
        app: ASGIApp,
        book: Book,
        routes: Collection[str],
        headers: Mapping[str, str],
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._book = book
        self._metrics = book.metrics
        self._routes = frozenset(routes)
        self._headers = raw_headers(headers)
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = request_id_of(scope)
        notes: dict[str, Any] = {}
        scope[REQUEST_ID], scope[NOTES] = request_id, notes
        extra = [(b"x-request-id", request_id.encode()), *self._headers]
        status = _CLIENT_CLOSED

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        trace = None if self._tracing is None else self._tracing.begin(scope)
        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, send_with_headers)
        except ClientGone:
            if status != _CLIENT_CLOSED:
                self._metrics.cancelled("send", notes.get("images", 1))
            elif "images" not in notes:
                self._metrics.cancelled("read")
            status = _CLIENT_CLOSED
        except asyncio.CancelledError:
            # By the server itself, when the time to drain is over: the client is still there, and can be told.
            if status != _CLIENT_CLOSED:
                raise
            await send_error(send_with_headers, _shutting_down(), request_id, scope["path"])
        except Exception as error:  # the last line of defence: logged in full, answered without internals
            logger.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
            if status == _CLIENT_CLOSED:
                await send_error(send_with_headers, internal_error(), request_id, scope["path"])
        finally:
            self._metrics.in_flight -= 1
            route = notes.pop("route", scope["path"])
            route = route if route in self._routes else "other"
            self._book.enter(scope, route, status, time.perf_counter() - started, notes)
            if trace is not None:
                trace.end(route, status, notes)


def request_id_of(scope: Scope) -> str:
    """The client's X-Request-ID if it is short and plain, otherwise a fresh one."""
    given = header(scope, b"x-request-id")
    # No secret: asking the system for one would let go of the interpreter's lock, and wait to have it back.
    return given if _PLAIN_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"


def _shutting_down() -> NotReady:
    return NotReady("the server is shutting down", "send the request again, to another server")


def outcome_of(status: int) -> Outcome:
    """The few outcomes that requests are counted by."""
    if status == _CLIENT_CLOSED:
        return "cancelled"
    if status in (429, 503):
        return "rejected"
    if status == 504:
        return "deadline"
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "ok"
