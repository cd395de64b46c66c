"""The application: ``create_app(settings, repository)`` wires the parts, and its lifespan starts and ends them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol, cast

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

import skipvit
from serve.admission import Admission
from serve.classify import Classify
from serve.decoding import ImageLimits
from serve.denoise import Denoise
from serve.errors import NotFound, RequestError, WrongMethod, nearest, quoted
from serve.models.control import ModelControl
from serve.models.groups import Groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.gpu_figures import Gpus
from serve.monitoring.live import Part, Watched, add_live_route
from serve.monitoring.metrics import Metrics, ModelState
from serve.monitoring.status import add_status_routes
from serve.monitoring.tracing import note_stage, open_tracing
from serve.oip.infer import Infer
from serve.oip.repository import Control, OipRepository
from serve.oip.routes import OipStatus, oip_routes
from serve.openapi.classify import CLASSIFY
from serve.openapi.denoise import DENOISE
from serve.openapi.denoise_video import DENOISE_VIDEO
from serve.openapi.document import openapi_of
from serve.openapi.oip import OIP_ROUTES
from serve.pages import page_routes
from serve.pipeline import DecodeStage
from serve.samples import add_sample_route
from serve.settings import Settings
from serve.tasks import ROUTES
from serve.video.denoise import DenoiseVideo
from serve.web.doorway import REQUEST_ID
from serve.web.hot_routes import METHODS
from serve.web.middleware import add_middleware, public_paths
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

_WARM_UP_ENDS_WITHIN_S = 5.0


class Others(Protocol):
    """The other processes of a server of several, of which this one is a front; see ``serve.fronts``.

    ``groups`` are the tasks of the groups, which were checked there.
    """

    @property
    def models(self) -> Control:
        """Who loads and unloads."""
        ...

    @property
    def groups(self) -> Mapping[str, Task]: ...

    async def metrics(self, own: Callable[[], bytes]) -> bytes:
        """Those of the whole server, and of this process what ``own`` renders."""
        ...

    async def parts(self, own: Callable[[], Part]) -> Sequence[Part]:
        """What all processes say for the status, and this one by ``own``."""
        ...


def create_app(settings: Settings, repository: Repository, others: Others | None = None) -> FastAPI:
    """Returns the ASGI application that serves ``repository``.

    Its lifespan starts the threads and warms the models in the background: /livez answers at once, /readyz when all
    are warm. The repository is closed with it. With ``others``, models are loaded and unloaded there.
    """
    metrics = Metrics()
    tracing = open_tracing(settings.tracing)
    if tracing is not None:
        metrics.on_stage = note_stage
    admission = Admission.from_settings(settings)
    limits = ImageLimits(settings.max_pixels, settings.max_frames)
    groups = Groups(settings, repository, metrics, others.groups if others else None)
    decoding = DecodeStage(settings.decoders, limits, lambda: repository.batchers)
    classify = Classify(settings, repository, groups, admission, decoding, metrics)
    denoise = Denoise(settings, repository, groups, admission, metrics)
    denoise_video = DenoiseVideo(settings, repository, groups, admission, metrics)
    infer = Infer(settings, repository, groups, admission, decoding, denoise, metrics)
    control = None if others else ModelControl(settings, repository, metrics, infer.statistics.forget)
    metrics.watch_models(lambda: [_model_state(repository, model) for model in repository.served])
    metrics.watch_decoding(lambda: decoding.waiting)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        deliver = asyncio.get_running_loop().call_soon_threadsafe
        decoding.start(deliver)
        repository.start(deliver, lambda model, report: metrics.batch(model.name, report))
        warmer = ThreadPoolExecutor(1, thread_name_prefix="warm-up")
        warming = asyncio.get_running_loop().run_in_executor(warmer, repository.warm_up)
        warmer.shutdown(wait=False)
        if control is not None:
            control.start()
        try:
            yield
        finally:
            repository.drain()
            await asyncio.wait({warming}, timeout=_WARM_UP_ENDS_WITHIN_S)
            if control is not None:
                await control.close()
            groups.close()
            await denoise.close()
            denoise_video.close()
            await asyncio.to_thread(_close, decoding, repository, warm=warming.done())
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="skipvit",
        version=skipvit.__version__,
        description="Pictures in, labels or clean pictures out: Vision Transformers that skip attention.",
        docs_url=None,  # FastAPI's own pages load from a CDN
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # each looks for its provider in every request
        lifespan=lifespan,
    )
    app.state.metrics = metrics
    app.state.statistics = infer.statistics
    app.state.watched = watched = Watched(metrics, lambda: decoding.waiting + repository.waiting)
    # What is matched first comes first: these are asked for most.
    inference: dict[str, ASGIApp] = {
        ROUTES["classification"]: classify,
        ROUTES["denoising"]: denoise,
        ROUTES["video-denoising"]: denoise_video,
    }
    app.router.routes[:0] = [
        Route(path, endpoint, methods=list(METHODS), include_in_schema=False) for path, endpoint in inference.items()
    ]
    status = OipStatus(settings, repository, groups, infer)
    models = OipRepository(settings, repository, control or cast(Others, others).models, admission)
    app.router.routes.extend(oip_routes(status, models, infer))
    add_status_routes(app, repository, groups)
    add_live_route(app, repository, watched, others)
    add_sample_route(app, repository)
    app.add_route("/metrics", _metrics_endpoint(metrics, repository, others), methods=["GET"], include_in_schema=False)
    app.router.routes.extend(page_routes())
    described = {
        ROUTES["classification"]: CLASSIFY,
        ROUTES["denoising"]: DENOISE,
        ROUTES["video-denoising"]: DENOISE_VIDEO,
        **OIP_ROUTES,
    }
    open_to_all = public_paths(settings) if settings.api_keys else None
    app.openapi = openapi_of(app, described, open_to_all)  # type: ignore[method-assign]  # FastAPI's documented way to replace it
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestError, _http_error)
    refusals = {ROUTES["classification"]: classify.refusal}
    app.state.shedding = add_middleware(app, inference, refusals, settings, metrics, tracing)
    return app


def _close(decoding: DecodeStage, repository: Repository, *, warm: bool) -> None:
    decoding.close()
    if warm:
        repository.close()
    else:  # an engine must not be freed while it runs
        logger.error("the warm-up of a model hangs; its engine stays open until the process ends")


def _model_state(repository: Repository, model: ServedModel) -> ModelState:
    info = model.engine_info
    waiting = model.batcher.waiting
    return ModelState(model.name, model.version, repository.is_ready(model), waiting, info.kind, info.device)


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
