"""A server in this process, asked through ASGI: no sockets, and every exception comes out."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.fuzz_doors import Request
from serve.app import create_app
from serve.heap import return_large_blocks
from serve.models.repository import Repository
from serve.settings import Settings

_SLOW_START_S = 120
_OWN_TIME = b"x-request-timeout"


class Target:
    """The application, wired straight to what asks it."""

    def __init__(self, models: Path) -> None:
        settings = Settings(
            decode_threads=1, tile_threads=1, access_log=False, engine="onnx-cpu", max_body_bytes=4 << 20,
            max_pixels=4_000_000, max_video_frames=50, max_video_pixels=4_000_000, body_timeout_s=5.0,
        )  # fmt: skip
        return_large_blocks()  # as the server's own start does
        self._repository = Repository.open(models, settings)
        self._app = create_app(settings, self._repository)
        self._lifespan: AbstractAsyncContextManager[Any] | None = None

    async def __aenter__(self) -> Self:
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()
        async with asyncio.timeout(_SLOW_START_S):
            while self._repository.state == "warming":
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lifespan is not None
        await self._lifespan.__aexit__(kind, error, trace)

    async def ask(self, request: Request) -> str:
        """Whether the request was accepted or refused, or how it failed."""
        answer = _Answer(request)
        await self._app(_scope(request), answer.receive, answer.send)
        return answer.outcome()


def _scope(request: Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "root_path": "",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "headers": list(request.headers),
        "state": {},
    }


class _Answer:
    """The two ends of one exchange: gives the body, keeps the answer."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._given = False
        self._ended = asyncio.Event()
        self._status = 0
        self._kind = b""
        self._parts: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._kind = dict(message["headers"]).get(b"content-type", b"")
        else:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._ended.set()

    def outcome(self) -> str:
        if not self._ended.is_set():
            return "FAILED: the answer has no end"
        own_time = any(name == _OWN_TIME for name, _ in self._request.headers) or b"timeout" in self._request.body
        if self._status >= 500 and not (self._status == 504 and own_time):
            return f"FAILED: {self._status} {b''.join(self._parts)[:300]!r}"
        if self._status < 400:
            return "accepted"
        if self._request.method != "HEAD" and not self._says_why():
            return f"FAILED: {self._status} without a reason: {b''.join(self._parts)[:300]!r}"
        return "refused"

    def _says_why(self) -> bool:
        try:
            document = json.loads(b"".join(self._parts))
        except ValueError:
            return False
        return self._kind.startswith(b"application/json") and bool(document.get("error"))
