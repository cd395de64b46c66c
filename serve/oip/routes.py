"""The Open Inference Protocol's routes under /v2, with Triton's extensions, and what answers the small ones."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import skipvit
from serve.models.group import EXACT
from serve.models.groups import Chosen, Groups
from serve.models.repository import Repository
from serve.oip.infer import INFER, Infer
from serve.oip.models import config_of, metadata_of
from serve.oip.repository import OipRepository
from serve.settings import Settings

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

    def __init__(self, settings: Settings, repository: Repository, groups: Groups, infer: Infer) -> None:
        self._settings = settings
        self._repository = repository
        self._groups = groups
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
        chosen = self._chosen(request)
        versions = list(self._repository.versions(chosen.model.name))
        return _json({**metadata_of(chosen.model, versions), **chosen.in_place_of_model})

    async def model_ready(self, request: Request) -> Response:
        chosen = self._chosen(request)
        ready = self._repository.is_ready(chosen.model)
        return _json({"name": request.path_params["name"], "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        chosen = self._chosen(request)
        return _json({**config_of(chosen.model, self._settings), "name": request.path_params["name"]})

    async def stats(self, request: Request) -> Response:
        models = [self._chosen(request).model] if "name" in request.path_params else self._repository.served
        return _json(self._statistics.render(models))

    def _chosen(self, request: Request) -> Chosen:
        """The model of a request; of a group, the most exact variant: what it takes and gives, all of them do."""
        name, version = request.path_params["name"], request.path_params.get("version")
        return self._groups.find(name, version, EXACT if self._groups.has(name) else None)


def oip_routes(status: OipStatus, models: OipRepository, infer: Infer) -> list[Route]:
    """All routes, those that are asked for most first. HEAD answers where GET does."""
    model = "/v2/models/{name}"
    version = f"{model}/versions/{{version}}"
    posts: dict[str, Any] = {
        INFER: infer,
        f"{version}/infer": infer,
        "/v2/repository/index": models.index,
        "/v2/repository/models/{name}/load": models.load,
        "/v2/repository/models/{name}/unload": models.unload,
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


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")
