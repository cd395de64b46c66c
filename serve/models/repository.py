"""The models that a server serves, by name and version, and the state of the server.

What is served changes while the server runs: serve.models.control brings versions in and takes them out, on the event
loop, where all look-ups are made.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from serve.batcher import Batcher, BatchReport, call_now
from serve.engines.engine import EngineLost, EngineUnavailable
from serve.errors import BadField, NotFound, nearest, quoted
from serve.models.folder import Fingerprint, Folder, fingerprint_of
from serve.models.loading import load_version, load_wanted
from serve.models.served_model import ServedModel
from serve.settings import Settings
from serve.tasks import ROUTES
from skipvit.artifacts import ArtifactError
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

State = Literal["new", "warming", "ready", "recovering", "draining", "failed", "closed"]
Deliver = Callable[[Callable[[], None]], object]
Key = tuple[str, int]
"""Name and version of a model."""

_REFUSALS = {
    "new": "the server is starting",
    "warming": "the models are warming up",
    "failed": "a model is out of service",
    "closed": "the server is shutting down",
}
_NONE: Mapping[str, ServedModel] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version is not served, and what it looked like when it was tried."""

    reason: str
    fingerprint: Fingerprint


class Repository:
    """Served models, and the state of the server.

    - new, warming: no model answers yet
    - ready: at least one model answers; one whose engine died is started again, and answers 503 meanwhile
    - recovering: the engines of all models died and are being started again
    - draining: on its way out; what comes is still answered
    - failed: a model did not warm up, or could not be started again; a new process is the cure
    - closed
    """

    def __init__(self, models: Iterable[ServedModel], root: Path | None = None) -> None:
        self._table: dict[str, Mapping[str, ServedModel]] = {}
        self._models: Mapping[str, ServedModel] = {}
        self._retired: list[ServedModel] = []
        for model in models:
            self.put(model)
        if root is None and not self._table:
            raise ValueError("a repository needs at least one model to serve, got none")
        self.root = root or next(iter(self._models.values())).folder.parent.parent
        self.failures: dict[Key, Failure] = {}
        self.given_up: set[Key] = set()
        self.failure: BaseException | None = None
        self._state: State = "new"

    @classmethod
    def open(cls, root: Path, settings: Settings) -> "Repository":
        """Verifies and loads the versions of every model under ``root`` that the settings want.

        Raises:
            ArtifactError: nothing is there, or something is wrong with it; the message names the file.
            EngineUnavailable: the engine that the settings ask for cannot run here.
        """
        return cls(load_wanted(root, settings), root)

    @classmethod
    def reopen(cls, root: Path, settings: Settings, keys: Iterable[Key]) -> "Repository":
        """Loads what a process that died had served. A version that cannot be had is left out.

        Without any of them, the repository is opened as if it had never been.

        Raises:
            ArtifactError, EngineUnavailable: as ``open``.
        """
        models: list[ServedModel] = []
        failures: dict[Key, Failure] = {}
        for name, version in keys:
            before = fingerprint_of(root / name / str(version))
            try:
                models.append(load_version(root, name, version, settings))
            except (ArtifactError, EngineUnavailable) as error:
                logger.error("model %s/%s is served no more: %s", name, version, error)
                failures[name, version] = Failure(str(error).replace(f"{root}/", ""), before)
        if failures and not models:
            logger.error("nothing that was served can be had any more; what %s holds now is served", root)
            return cls.open(root, settings)
        repository = cls(models, root)
        repository.failures.update(failures)
        return repository

    @property
    def state(self) -> State:
        """Where the server stands."""
        if self._state == "ready" and self.given_up:
            return "failed"
        if self._state == "ready" and self._models and not any(model.batcher.alive for model in self.served):
            return "recovering"
        return self._state

    @property
    def refusal(self) -> str | None:
        """Why no request can be answered now, or None. A model that is down by itself says so itself."""
        return _REFUSALS.get(self._state)

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The version of each model that answers who names none. Ask again after every wait: it may have changed."""
        return self._models

    @property
    def served(self) -> list[ServedModel]:
        """All versions of all models that are served."""
        return [model for versions in self._table.values() for model in versions.values()]

    @property
    def batchers(self) -> Sequence[Batcher]:
        """Batchers of all models, in service or on their way out of it."""
        return [model.batcher for model in (*self.served, *self._retired)]

    @property
    def waiting(self) -> int:
        """Pictures and tiles that wait in this process for an engine."""
        return sum(model.batcher.waiting for model in self.served)

    def versions(self, name: str) -> Mapping[str, ServedModel]:
        """The served versions of a model, the highest first."""
        return self._table.get(name, _NONE)

    def is_ready(self, model: ServedModel) -> bool:
        """Whether requests for this model are answered."""
        return self._state == "ready" and model.batcher.alive

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model called ``name``, in its highest served version unless another is asked for.

        Raises:
            NotFound: there is no such model or version. Triton's own clients look for how the message begins.
        """
        versions = self._table.get(name)
        if versions is None:
            hint = nearest(name, self._models)
            raise NotFound("unknown_model", f"Request for unknown model: {quoted(name)} is not found", hint)
        model = self._models[name] if version is None else versions.get(version)
        if model is None:
            raise NotFound(
                "unknown_version",
                f"Request for unknown model: {quoted(name)} version {quoted(version or '')} is not found",
                f"version {', '.join(versions)} is served",
            )
        return model

    def get(self, name: str | None, task: Task) -> ServedModel:
        """The model called ``name``, or the first one of ``task``.

        Raises:
            NotFound: there is no such model; the hint has the nearest names.
            BadField: it is a model of another task; the hint has its route.
        """
        fitting = [model for model in self._models.values() if model.task == task]
        if name is None:
            if not fitting:
                raise NotFound("no_model", f"no model for {task} is served here", "see GET /v1/models for what is")
            return fitting[0]
        model = self._models.get(name)
        if model is None:
            names = [model.name for model in fitting] or self._models
            raise NotFound("unknown_model", f"there is no model {quoted(name)}", nearest(name, names))
        if model.task == "tensors":
            raise BadField(
                "wrong_task",
                f"model {name!r} takes tensors, and {ROUTES[task]} is for {task}",
                f"send it to /v2/models/{name}/infer, or leave model out",
            )
        if model.task != task:
            raise BadField(
                "wrong_task",
                f"model {name!r} is for {model.task}, and {ROUTES[task]} is for {task}",
                f"send it to {ROUTES[model.task]}, or leave model out",
            )
        return model

    # --- changes, on the event loop ---

    def put(self, model: ServedModel) -> ServedModel | None:
        """Takes a model into service; returns the one whose place it takes, which is retired.

        Tables and lists are replaced and never changed: other threads may be going through them.
        """
        versions = self._table.get(model.name, _NONE)
        replaced = versions.get(model.version)
        if replaced is not None:
            self._retired = [*self._retired, replaced]  # first, so that no moment leaves its batcher without hands
        self._replace(model.name, {**versions, model.version: model})
        return replaced

    def take_out(self, model: ServedModel) -> None:
        """Takes a model out of service; it is retired."""
        self._retired = [*self._retired, model]
        versions = {version: other for version, other in self._table[model.name].items() if other is not model}
        self._replace(model.name, versions)

    def forget(self, model: ServedModel) -> None:
        """Forgets a retired model, which was closed."""
        self._retired = [other for other in self._retired if other is not model]

    def forget_failures(self, folder: Folder) -> None:
        """Forgets why versions were not served that lie in the folder no more."""
        for name, version in list(self.failures):
            if version not in folder.get(name, {}):
                del self.failures[name, version]

    def _replace(self, name: str, versions: Mapping[str, ServedModel]) -> None:
        ordered = dict(sorted(versions.items(), key=lambda item: -int(item[0])))
        table = {**self._table, name: ordered}
        self._table = {name: table[name] for name in sorted(table) if table[name]}
        self._models = {name: next(iter(found.values())) for name, found in self._table.items()}

    # --- life ---

    def start(self, deliver: Deliver, report: Callable[[ServedModel, BatchReport], None]) -> None:
        """Starts the engine threads; ``deliver`` and ``report`` are as in Batcher.start, per model."""
        self._state = "warming"
        self._deliver, self._report = deliver, report
        for model in self.served:
            self.begin(model)

    def begin(self, model: ServedModel) -> None:
        """Starts the engine threads of one model.

        Tiles are finished where their engine runs: a thread waits for them, not the event loop.
        """
        hand_over = self._deliver if model.task == "classification" else call_now
        model.batcher.start(hand_over, lambda batch: self._report(model, batch))

    def warm_up(self) -> None:
        """Warms every model; blocks. After it the repository is ready, or failed with ``failure`` set.

        A drain ends it after the model that it is at.
        """
        try:
            for model in self.served:
                if self._state == "draining":
                    return
                model.warm_up()
        except (Exception, EngineLost) as error:  # whatever it is, the server must report it and not become ready
            self.failure = error
            self._state = "failed"
            logger.critical("warm-up failed", exc_info=error)
        else:
            if self._state == "warming":
                self._state = "ready"

    def drain(self) -> None:
        """Takes the server out of rotation; what comes is still answered."""
        if self._state not in ("failed", "closed"):
            self._state = "draining"

    def close(self) -> None:
        """Finishes what waits and frees the engines."""
        if self._state != "closed":
            self._state = "closed"
            for model in (*self.served, *self._retired):
                model.close()
