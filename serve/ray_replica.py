"""One replica on Ray Serve: the server's own application, with engines, threads and queues of its own.

Ray builds it in a process of its own, on whichever node has room, and sends it requests through its proxies.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.app import create_app
from serve.heap import return_large_blocks
from serve.models.repository import Repository
from serve.monitoring.logs import set_up_logging
from serve.settings import Settings

_POLL_S = 0.05


class Replica:
    """What Ray Serve makes of the deployment, once per replica.

    Raises:
        ArtifactError: nothing is in ``models_dir`` on this node, or something is wrong with it.
        EngineUnavailable: the engine that the settings ask for cannot run on this node.
        RuntimeError: a model needs a package that this node does not have.
    """

    def __init__(self, models_dir: Path, settings: Settings) -> None:
        self._settings = settings
        set_up_logging(settings.log_format, shared=True)
        self._repository = Repository.open(models_dir, settings)
        models = self._repository.models.values()
        if any(model.task != "classification" for model in models):
            return_large_blocks()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application whose lifespan Ray runs, and which it calls with every request."""
        app = create_app(self._settings, self._repository)
        _start_when_warm(app, self._repository)
        return OneRequestId(app)

    async def check_health(self) -> None:
        """Asked by Ray every few seconds; a replica that raises is replaced.

        Raises:
            RuntimeError: an engine died, or did not warm up.
        """
        if self._repository.state == "failed":
            raise RuntimeError("a model of this replica is out of service") from self._repository.failure


class OneRequestId:
    """Leaves X-Request-ID to Ray's proxy, which puts one on every request and its answer; ours would be a second."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, send_without_id)


def _start_when_warm(app: FastAPI, repository: Repository) -> None:
    """Makes the start of ``app`` wait for its models: Ray sends requests to a replica as soon as it has started."""
    start = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with start(app):
            while repository.state in ("new", "warming"):
                await asyncio.sleep(_POLL_S)
            if repository.state == "failed":
                raise RuntimeError(f"a model failed to warm up: {repository.failure}")
            yield

    app.router.lifespan_context = lifespan
