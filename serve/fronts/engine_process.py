"""The process of the engines: models, batchers and engines, for the fronts. Started by the supervisor only.

    python -m serve.fronts.engine_process FD

FD is its end of the control connection. An engine that dies here ends the process, and the supervisor starts another.
"""

import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from serve.engines.engine import EngineUnavailable
from serve.fronts.control import Control, Kind, Message, started
from serve.fronts.desk import Desks
from serve.heap import return_large_blocks
from serve.models.group import GroupError, open_groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.logs import flush_log, set_up_logging
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from serve.tasks import ROUTES
from skipvit.artifacts import ArtifactError

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2


class EngineProcess:
    """Serves the fronts whose connections come over ``control``."""

    def __init__(self, repository: Repository, control: Control) -> None:
        self._repository = repository
        self._control = control
        self._metrics = Metrics()
        self._desks = Desks(repository.served)

    def run(self, pending: Sequence[Message]) -> int:
        """Serves until told to stop, or until the supervisor and the fronts are gone; returns the exit code."""
        self._repository.start(self._desks.deliver, lambda model, report: self._metrics.batch(model.name, report))
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        try:
            while all(self._obey(message) for message in pending):
                if self._repository.failure is not None:
                    return fail(f"a model failed to warm up: {self._repository.failure}")
                if dead := [model.name for model in self._repository.served if not self._alive(model)]:
                    return fail(f"the engine of model {dead[0]!r} died, and this process ends with it")
                pending = self._heard()
        except EOFError:
            self._outlive_the_fronts()
        self._repository.close()
        return 0

    def _warm_up(self) -> None:
        self._repository.warm_up()
        if self._repository.state == "ready":
            self._desks.warm()
            self._control.send(Kind.READY)

    def _alive(self, model: ServedModel) -> bool:
        return model.batcher.alive or self._repository.state in ("new", "warming")

    def _heard(self) -> list[Message]:
        readable, _, _ = select.select([self._control.connection], [], [], _LOOK_EVERY_S)
        return self._control.pending() if readable else []

    def _obey(self, message: Message) -> bool:
        """Does what the supervisor says; False is the end."""
        if message.kind == Kind.LINK:
            self._desks.add(socket.socket(fileno=message.fd))
        elif message.kind == Kind.SCRAPE:
            self._control.send(Kind.SAMPLES, message.body + self._metrics.render())
        return message.kind != Kind.STOP

    def _outlive_the_fronts(self) -> None:
        """The supervisor is gone: the fronts finish what is in flight, and need the engines until then."""
        while self._desks.open and self._repository.failure is None:
            time.sleep(_LOOK_EVERY_S)


def fail(message: str) -> int:
    """Prints why the process ends; returns its exit code."""
    print(f"skipvit-serve: {message}", file=sys.stderr, flush=True)
    return 1


def main() -> int:
    """Serves until told to stop; returns the exit code."""
    try:
        control, given, pending = started(int(sys.argv[1]))
    except EOFError:
        return 0
    settings = Settings(**given["settings"])
    set_up_logging(settings.log_format)
    try:
        repository = Repository.open(Path(given["models_dir"]), settings)
    except (ArtifactError, EngineUnavailable) as error:
        return fail(str(error))
    try:
        open_groups(settings, repository.models)
    except GroupError as error:
        repository.close()
        return fail(str(error))
    models = repository.served
    if others := [model.name for model in models if model.task not in ROUTES]:
        repository.close()
        return fail(f"model {others[0]!r} takes tensors of its own, which --fronts does not pass on; leave out one")
    if any(model.task != "classification" for model in models):
        return_large_blocks()
    return EngineProcess(repository, control).run(pending)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    flush_log()
    os._exit(code)  # at once: a thread may hang in an engine, and nothing is left to be written
