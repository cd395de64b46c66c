"""The application: ``create_app(settings, repository)`` gives what ``Wiring`` holds its routes and its middleware."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

import skipvit
from serve.errors import NotFound, RequestError, WrongMethod, nearest, quoted
from serve.models.repository import Repository
from serve.monitoring.gpu_figures import Gpus
from serve.monitoring.live import add_live_route
from serve.monitoring.metrics import Metrics
from serve.monitoring.status import add_status_routes
from serve.oip.repository import OipRepository
from serve.oip.routes import OipStatus, oip_routes
from serve.openapi.classify import CLASSIFY
from serve.openapi.denoise import DENOISE
from serve.openapi.denoise_video import DENOISE_VIDEO
from serve.openapi.document import openapi_of
from serve.openapi.oip import OIP_ROUTES
from serve.pages import page_routes
from serve.samples import add_sample_route
from serve.settings import Settings
from serve.tasks import ROUTES
from serve.web.doorway import REQUEST_ID
from serve.web.hot_routes import METHODS
from serve.web.middleware import add_middleware, public_paths
from serve.wiring import Others, Wiring


def create_app(settings: Settings, repository: Repository, others: Others | None = None) -> FastAPI:
    """Returns the ASGI application that serves ``repository``.

    Its lifespan starts the threads and warms the models in the background: /livez answers at once, /readyz when all
    are warm. The repository is closed with it. With ``others``, models are loaded and unloaded there.
    """
    wiring = Wiring(settings, repository, others)
    app = _bare_app(wiring)
    app.state.metrics = wiring.metrics
    app.state.statistics = wiring.infer.statistics
    app.state.watched = wiring.watched
    inference: dict[str, ASGIApp] = {
        ROUTES["classification"]: wiring.classify,
        ROUTES["denoising"]: wiring.denoise,
        ROUTES["video-denoising"]: wiring.denoise_video,
    }
    # What is matched first comes first: these are asked for most.
    app.router.routes[:0] = [
        Route(path, endpoint, methods=list(METHODS), include_in_schema=False) for path, endpoint in inference.items()
    ]
    _add_other_routes(app, wiring)
    _describe(app, settings)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestError, _http_error)
    entrances = {ROUTES["classification"]: wiring.classify.intake}
    app.state.shedding = add_middleware(
        app, inference, entrances, settings, wiring.metrics, wiring.tracing, wiring.rest
    )
    return app


def _bare_app(wiring: Wiring) -> FastAPI:
    """One without routes."""
    return FastAPI(
        title="skipvit",
        version=skipvit.__version__,
        description="Pictures in, labels or clean pictures out: Vision Transformers that skip attention.",
        docs_url=None,  # FastAPI's own pages load from a CDN
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # each looks for its provider in every request
        lifespan=lambda _app: wiring.running(),
    )


def _add_other_routes(app: FastAPI, wiring: Wiring) -> None:
    """All but those of inference."""
    repository, groups, others = wiring.repository, wiring.groups, wiring.others
    status = OipStatus(wiring.settings, repository, groups, wiring.infer)
    models = OipRepository(wiring.settings, repository, wiring.control, wiring.admission)
    app.router.routes.extend(oip_routes(status, models, wiring.infer))
    add_status_routes(app, repository, groups)
    add_live_route(app, repository, wiring.watched, others)
    add_sample_route(app, repository)
    metrics = _metrics_endpoint(wiring.metrics, repository, others)
    app.add_route("/metrics", metrics, methods=["GET"], include_in_schema=False)
    app.router.routes.extend(page_routes())


def _describe(app: FastAPI, settings: Settings) -> None:
    """Gives the app its OpenAPI document."""
    described = {
        ROUTES["classification"]: CLASSIFY,
        ROUTES["denoising"]: DENOISE,
        ROUTES["video-denoising"]: DENOISE_VIDEO,
        **OIP_ROUTES,
    }
    open_to_all = public_paths(settings) if settings.api_keys else None
    app.openapi = openapi_of(app, described, open_to_all)  # type: ignore[method-assign]  # FastAPI's documented way to replace it


def _metrics_endpoint(
    metrics: Metrics, repository: Repository, others: Others | None
) -> Callable[[Request], Awaitable[Response]]:
    gpus = Gpus()

    async def render(_request: Request) -> Response:
        if any(model.engine_info.kind != "onnx-cpu" for model in repository.models.values()):
            metrics.gpus = await asyncio.to_thread(gpus.read)
        text = await others.metrics(metrics.render) if others else metrics.render()
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return render


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of routes that know how to say them, and Starlette's own 404 and 405 in the words of this server."""
    said = error if isinstance(error, RequestError) else _explain(request, error)
    headers = {**(getattr(error, "headers", None) or {}), **said.headers}
    status = getattr(error, "status_code", said.status)
    return Response(
        said.body(request.scope[REQUEST_ID], request.scope["path"]),
        status,
        headers=headers,
        media_type="application/json",
    )


def _explain(request: Request, error: Exception) -> RequestError:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return WrongMethod("wrong_method", f"{quoted(path)} does not take {request.method}", f"use {allowed}")
    paths = [route.path for route in request.app.routes if isinstance(route, Route)]
    public = {p for p in paths if not p.startswith("/page/") and p != "/favicon.ico"}
    return NotFound("unknown_path", f"there is nothing at {quoted(path)}", nearest(path, public))
