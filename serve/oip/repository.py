"""The Open Inference Protocol's model repository extension: what there is, load it, unload it."""

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve.admission import Admission
from serve.errors import BadTensor, NotFound, nearest, quoted
from serve.models.control import LoadFailed, ModelControl
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from serve.web.asgi import Body
from skipvit.artifacts import ArtifactError

_MAX_BODY_BYTES = 4096


class OipRepository:
    """Answers the routes under /v2/repository."""

    def __init__(self, settings: Settings, repository: Repository, control: ModelControl, admission: Admission) -> None:
        self._settings = settings
        self._repository = repository
        self._control = control
        self._admission = admission

    async def index(self, request: Request) -> Response:
        """Every version that is served or lies there, with why it is not ready."""
        only_ready = _document(await self._body(request)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadTensor("bad_request", "the body is not an index request", 'send nothing, or {"ready": true}')
        rows = [self._served_row(model) for model in self._repository.served]
        if not only_ready:
            return _json([*rows, *await self._rows_of_others()])
        return _json([row for row in rows if row["state"] == "READY"])

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

    def _served_row(self, model: ServedModel) -> dict[str, str]:
        if self._repository.is_ready(model):
            # New files of a served version that were not taken are worth a word.
            failure = self._repository.failures.get((model.name, int(model.version)))
            kept = f"its new files were not taken: {failure.reason}" if failure else ""
            return _row(model.name, model.version, "READY", kept)
        alive = model.batcher.alive
        reason = f"the server is {self._repository.state}" if alive else "its engine died, and is being started again"
        return _row(model.name, model.version, "UNAVAILABLE", reason)

    async def _rows_of_others(self) -> list[dict[str, str]]:
        """Versions that lie there and are not served."""
        try:
            folder = await self._control.folder()
        except (OSError, ArtifactError):
            folder = {}
        failures = self._repository.failures
        served = {(model.name, int(model.version)) for model in self._repository.served}
        there = {(name, version) for name, versions in folder.items() for version in versions}
        reasons = dict.fromkeys(there, "not loaded") | {key: failure.reason for key, failure in failures.items()}
        return [
            _row(name, str(version), "UNAVAILABLE", reasons[name, version])
            for name, version in sorted(set(reasons) - served)
        ]


def _row(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}


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
