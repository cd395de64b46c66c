"""The Open Inference Protocol's routes under /v2, with Triton's extensions, and what answers the small ones."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import skipvit
from serve.admission import Admission
from serve.asgi import Body
from serve.errors import BadTensor
from serve.oip_infer import INFER, Infer
from serve.oip_models import config_of, metadata_of
from serve.repository import Repository
from serve.served_model import ServedModel
from serve.settings import Settings

_MAX_INDEX_BYTES = 4096
_EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
]

Endpoint = Callable[[Request], Awaitable[Response]]


class OipStatus:
    """What the server and its models say of themselves in the protocol's terms."""

    def __init__(self, settings: Settings, repository: Repository, admission: Admission, infer: Infer) -> None:
        self._settings = settings
        self._repository = repository
        self._admission = admission
        self._statistics = infer.statistics

    async def server(self, _request: Request) -> Response:
        # Triton's own clients check this name: it says which extensions of the protocol they may use.
        return _json({"name": "triton", "version": f"skipvit-{skipvit.__version__}", "extensions": _EXTENSIONS})

    async def live(self, _request: Request) -> Response:
        alive = self._repository.state != "failed"
        return _json({"live": alive}, 200 if alive else 503)

    async def ready(self, _request: Request) -> Response:
        ready = self._repository.state == "ready"
        return _json({"ready": ready}, 200 if ready else 503)

    async def metadata(self, request: Request) -> Response:
        return _json(metadata_of(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        model = self._model(request)
        ready = self._repository.is_ready(model)
        return _json({"name": model.name, "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        return _json(config_of(self._model(request), self._settings))

    async def stats(self, request: Request) -> Response:
        models = [self._model(request)] if "name" in request.path_params else list(self._repository.models.values())
        return _json(self._statistics.render(models))

    async def index(self, request: Request) -> Response:
        body = Body(request.scope, request.receive, self._admission, _MAX_INDEX_BYTES, self._settings.body_timeout_s)
        try:
            only_ready = _wants_ready(await body.read())
        finally:
            body.release()
        models = self._repository.models.values()
        return _json([self._indexed(model) for model in models if self._repository.is_ready(model) or not only_ready])

    async def control(self, request: Request) -> Response:
        """Load and unload: what is served is found at the start."""
        raise BadTensor(
            "not_enabled",
            "explicit model load / unload is not enabled: this server serves the latest version of each model that "
            "it finds when it starts",
            "put the model into the repository and restart the server",
        )

    def _model(self, request: Request) -> ServedModel:
        return self._repository.find(request.path_params["name"], request.path_params.get("version"))

    def _indexed(self, model: ServedModel) -> dict[str, str]:
        ready = self._repository.is_ready(model)
        return {
            "name": model.name,
            "version": model.version,
            "state": "READY" if ready else "UNAVAILABLE",
            "reason": "" if ready else f"the server is {self._repository.state}",
        }


def oip_routes(status: OipStatus, infer: Infer) -> list[Route]:
    """All routes, those that are asked for most first. HEAD answers where GET does."""
    model = "/v2/models/{name}"
    version = f"{model}/versions/{{version}}"
    posts: dict[str, Any] = {
        INFER: infer,
        f"{version}/infer": infer,
        "/v2/repository/index": status.index,
        "/v2/repository/models/{name}/load": status.control,
        "/v2/repository/models/{name}/unload": status.control,
    }
    gets: dict[str, Endpoint] = {
        "/v2/health/ready": status.ready,
        "/v2/health/live": status.live,
        "/v2": status.server,
        "/v2/models/stats": status.stats,
    }
    for path in (model, version):
        gets[path] = status.metadata
        gets[f"{path}/ready"] = status.model_ready
        gets[f"{path}/config"] = status.config
        gets[f"{path}/stats"] = status.stats
    routes = [Route(path, endpoint, methods=["POST"], include_in_schema=False) for path, endpoint in posts.items()]
    return routes + [Route(path, endpoint, methods=["GET"], include_in_schema=False) for path, endpoint in gets.items()]


def _wants_ready(raw: bytes) -> bool:
    if not raw.strip():
        return False
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise BadTensor("bad_request", "the body is not an index request", 'send nothing, or {"ready": true}')
    return ready


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")
