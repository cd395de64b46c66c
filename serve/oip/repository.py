"""The Open Inference Protocol's model repository extension: what there is, load it, unload it."""

from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve.admission import Admission
from serve.errors import BadTensor, NotFound, nearest, quoted
from serve.models.index import IndexRow
from serve.models.loading import LoadFailed
from serve.models.repository import Repository
from serve.settings import Settings
from serve.web.asgi import Body

_MAX_BODY_BYTES = 4096


class Control(Protocol):
    """Who loads and unloads, here or in another process; see ModelControl for what is raised."""

    async def load(self, name: str, override: str | None = None) -> None: ...

    async def unload(self, name: str) -> bool: ...

    async def index(self) -> list[IndexRow]: ...


class OipRepository:
    """Answers the routes under /v2/repository."""

    def __init__(self, settings: Settings, repository: Repository, control: Control, admission: Admission) -> None:
        self._settings = settings
        self._repository = repository
        self._control = control
        self._admission = admission

    async def index(self, request: Request) -> Response:
        """Every version that is served or lies there, with why it is not ready."""
        only_ready = _document(await self._body(request)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadTensor("bad_request", "the body is not an index request", 'send nothing, or {"ready": true}')
        rows = await self._control.index()
        return _json([row._asdict() for row in rows if not only_ready or row.state == "READY"])

    async def load(self, request: Request) -> Response:
        """Loads what lies in the repository, once more if it is served already."""
        name, config = await self._order(request, "config")
        try:
            await self._control.load(name, config)
        except LoadFailed as error:
            raise BadTensor(
                "not_loaded", f"failed to load {quoted(name)}, {error}", "POST /v2/repository/index says what there is"
            ) from None
        return _json({})

    async def unload(self, request: Request) -> Response:
        """Takes a model out of service; requests that it has are still answered."""
        name, _ = await self._order(request, "unload_dependents")
        if not await self._control.unload(name):
            raise NotFound(
                "unknown_model",
                f"failed to unload {quoted(name)}, it is not loaded",
                nearest(name, self._repository.models),
            )
        return _json({})

    async def _order(self, request: Request, known: str) -> tuple[str, str | None]:
        """The model to load or unload, and the text of its one ``known`` parameter.

        Raises:
            BadTensor: that is not enabled, or something else was asked for.
        """
        if self._settings.model_control == "none":
            raise BadTensor(
                "not_enabled",
                "explicit model load / unload is not enabled",
                "start the server with --model-control explicit, or with --watch-s to have it look for itself",
            )
        parameters = _document(await self._body(request)).get("parameters", {})
        unknown = sorted(set(parameters) - {known}) if isinstance(parameters, dict) else [str(parameters)]
        if unknown:
            raise BadTensor(
                "bad_request",
                f"parameters of a load that are not known here: {quoted(', '.join(unknown))}",
                "put the files into the repository, and load the model without parameters",
            )
        text = parameters.get(known)
        if known == "config" and not isinstance(text, str | None):
            raise BadTensor("bad_request", "config is not a string", "send the configuration as JSON in a string")
        return request.path_params["name"], text

    async def _body(self, request: Request) -> bytes:
        body = Body(request.scope, request.receive, self._admission, _MAX_BODY_BYTES, self._settings.body_timeout_s)
        try:
            return await body.read()
        finally:
            body.release()


def _document(raw: bytes) -> dict[str, Any]:
    """A body that may be left out. Raises BadTensor if it is no JSON object."""
    if not raw.strip():
        return {}
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise BadTensor("bad_request", "the body is not a JSON object", "send nothing, or an object such as {}")
    return document


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
