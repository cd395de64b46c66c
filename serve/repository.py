"""The models that a server serves: opened from a folder, verified, warmed up, and closed again."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from serve.batcher import Batcher, BatchReport, call_now
from serve.engine import EngineLost
from serve.errors import BadField, NotFound, nearest, quoted
from serve.served_model import ServedModel, open_model
from serve.settings import Settings
from serve.tasks import ROUTES
from skipvit.artifacts import ArtifactMissing, model_names, read_entry, versions_of
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

State = Literal["new", "warming", "ready", "draining", "failed", "closed"]
Deliver = Callable[[Callable[[], None]], object]


class Repository:
    """Served models by name, and the state of the server: new, warming, ready, draining, failed or closed."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models: Mapping[str, ServedModel] = {model.name: model for model in models}
        if not self._models:
            raise ValueError("a repository needs at least one model to serve, got none")
        self.failure: BaseException | None = None
        self._state: State = "new"

    @classmethod
    def open(cls, root: Path, settings: Settings) -> "Repository":
        """Verifies and loads the latest version of every model under ``root``.

        Raises:
            ArtifactError: nothing is there, or something is wrong with it; the message names the file.
            EngineUnavailable: the engine that the settings ask for cannot run here.
        """
        names = model_names(root)
        if not names and versions_of(root):
            raise ArtifactMissing(
                f"{root} is one model, not a folder of models; give its parent, {root.resolve().parent}"
            )
        if not names:
            raise ArtifactMissing(
                f"{root} holds no model such as {root / 'NAME' / '1' / 'model.onnx'}; "
                "make one with `make demo-models` or `skipvit-to-onnx`"
            )
        models: list[ServedModel] = []
        try:
            for name in names:
                models.append(open_model(read_entry(root, name), settings))
        except BaseException:
            for model in models:  # they may hold a GPU's memory
                model.close()
            raise
        return cls(models)

    @property
    def state(self) -> State:
        """Where the server stands. An engine that died fails it for good: a restart is the cure."""
        if self._state in ("ready", "draining") and not all(model.batcher.alive for model in self._models.values()):
            return "failed"
        return self._state

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """Models by name. Ask again after every wait: what is served may have changed meanwhile."""
        return self._models

    @property
    def batchers(self) -> Sequence[Batcher]:
        """Batchers of all models, in service or on their way out of it."""
        return [model.batcher for model in self._models.values()]

    def is_ready(self, model: ServedModel) -> bool:
        """Whether requests for this model are answered."""
        return self.state == "ready" and model.batcher.alive

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model called ``name``, in its own version unless another is asked for.

        Raises:
            NotFound: there is no such model or version. Triton's own clients look for how the message begins.
        """
        model = self._models.get(name)
        if model is None:
            hint = nearest(name, self._models)
            raise NotFound("unknown_model", f"Request for unknown model: {quoted(name)} is not found", hint)
        if version is not None and version != model.version:
            raise NotFound(
                "unknown_version",
                f"Request for unknown model: {quoted(name)} version {quoted(version)} is not found",
                f"version {model.version} is served",
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
        if model.task != task:
            raise BadField(
                "wrong_task",
                f"model {name!r} is for {model.task}, and {ROUTES[task]} is for {task}",
                f"send it to {ROUTES[model.task]}, or leave model out",
            )
        return model

    def start(self, deliver: Deliver, report: Callable[[ServedModel, BatchReport], None]) -> None:
        """Starts the engine threads; ``deliver`` and ``report`` are as in Batcher.start, per model.

        Tiles are finished where their engine runs: a thread waits for them, not the event loop.
        """
        self._state = "warming"
        for model in self.models.values():
            hand_over = deliver if model.task == "classification" else call_now
            model.batcher.start(hand_over, lambda batch, model=model: report(model, batch))  # type: ignore[misc]  # mypy cannot type the default

    def warm_up(self) -> None:
        """Warms every model; blocks. After it the repository is ready, or failed with ``failure`` set."""
        try:
            for model in self.models.values():
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
            for model in self.models.values():
                model.close()
