"""The shortest way out, for a request that finds no place: a 429 as soon as its head is here.

Of ten times the requests that a server can answer nine are refused, on the cores that compute for the tenth. A refusal
is Python that the engines have driven out of the caches since the last one, so it takes time in proportion to how much
of it runs: here no task, body, middleware or exception. What is said, counted and logged is what the routes' own
refusal would be; what is unusual about a request is left to them.
"""

import time
from collections.abc import Mapping
from typing import Protocol

from starlette.types import Scope

from serve.errors import RequestError
from serve.web.asgi import raw_headers
from serve.web.doorway import NOTES, REQUEST_ID, Book, request_id_of
from serve.web.gate import Gate
from serve.web.loop_rest import Rest

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body."""

# Of browsers, of proxies that say for whom they ask, and of clients that wait before they send their body.
_UNUSUAL = frozenset({b"origin", b"sec-fetch-site", b"x-forwarded-for", b"x-forwarded-proto", b"expect"})


class Entrance(Protocol):
    """Where a route takes its requests in."""

    def refusal(self) -> RequestError | None:
        """What any request must be told now, if there is no place for it."""
        ...

    def turned_away(self, refusal: RequestError) -> None:
        """Tells ladders and metrics of a request that is told so."""
        ...


class Shedding:
    """Says what is to be said to requests for routes that have no place for them.

    Args:
        entrances: of routes by path.
        gate: who may not come in is none of the refused.
        headers: of every answer.
        rest: for the event loop after a refusal.
    """

    def __init__(
        self, entrances: Mapping[str, Entrance], gate: Gate, book: Book, headers: Mapping[str, str], rest: Rest
    ) -> None:
        self._entrances = {path.encode(): entrance for path, entrance in entrances.items()}
        self._gate = gate
        self._book = book
        self._headers = raw_headers(headers)
        self._rest = rest

    def answer(self, method: bytes, url: bytes, scope: Scope) -> Answer | None:
        """The answer to a request with this head, or None if it is for the app to answer.

        ``scope`` is that of the app, without the request's method and path.
        """
        entrance = self._entrances.get(url)
        if entrance is None or method not in (b"POST", b"PUT"):
            return None
        started = time.perf_counter()
        for name, _ in scope["headers"]:
            if name in _UNUSUAL:
                return None
        if (refusal := entrance.refusal()) is None:  # before the gate, where keys take time
            return None
        notes: dict[str, str] = {}
        path = url.decode()
        seen = {**scope, "method": method.decode(), "path": path, NOTES: notes}
        if not self._may_come_in(seen):
            return None
        entrance.turned_away(refusal)
        seen[REQUEST_ID] = request_id = request_id_of(seen)
        body = refusal.body(request_id, path)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *raw_headers(refusal.headers),
            (b"x-request-id", request_id.encode()),
            *self._headers,
        ]
        self._book.enter(seen, path, refusal.status, time.perf_counter() - started, notes)
        self._rest.after_this()
        return refusal.status, headers, body

    def _may_come_in(self, scope: Scope) -> bool:
        if self._gate.is_open:
            return True
        try:
            self._gate.check(scope)
        except RequestError:
            return False
        return True
