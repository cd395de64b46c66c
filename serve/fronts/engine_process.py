"""The process of the engines: models, batchers and engines, for the fronts. Started by the supervisor only.

    python -m serve.fronts.engine_process FD

FD is its end of the control connection. An engine that dies here ends the process, and the supervisor starts another,
which serves the same versions.
"""

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from serve.engines.engine import EngineUnavailable
from serve.fronts.control import NUMBER, Control, Kind, Message, started
from serve.fronts.desks import Desks
from serve.fronts.orders import carry_out
from serve.heap import return_large_blocks
from serve.models.control import ModelControl
from serve.models.group import GroupError, open_groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.live import Watched
from serve.monitoring.logs import flush_log, set_up_logging
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from skipvit.artifacts import ArtifactError
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_EVERYWHERE_WITHIN_S = 30.0
_END_WITHIN_S = 1.0


class Heritage(BaseModel):
    """What a process of the engines leaves to the one that comes after it.

    ``served`` are names and versions, ``unloaded`` models that clients took out, ``groups`` those of the settings with
    their tasks.
    """

    served: list[tuple[str, int]] = []
    unloaded: list[str] = []
    groups: dict[str, Task] = {}


class EngineProcess:
    """Serves the fronts whose connections come over ``control``."""

    def __init__(self, settings: Settings, repository: Repository, control: Control, heritage: Heritage) -> None:
        self._settings = settings
        self._repository = repository
        self._control = control
        self._metrics = Metrics()
        self._watched = Watched(self._metrics, lambda: sum(batcher.waiting for batcher in repository.batchers))
        self._groups = heritage.groups
        self._desks = Desks(
            repository.served, heritage.groups, lambda front: self._send(Kind.INVITE, NUMBER.pack(front))
        )
        self._models = ModelControl(settings, repository, self._metrics)
        self._models.unloaded.update(heritage.unloaded)
        self._orders: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._alone = False

    async def run(self, pending: Sequence[Message]) -> int:
        """Serves until told to stop, or until the supervisor and the fronts are gone; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._repository.start(self._desks.deliver, lambda model, report: self._metrics.batch(model.name, report))
        threading.Thread(target=self._warm_up, args=(loop,), name="warm-up", daemon=True).start()
        loop.add_reader(self._control.connection.fileno(), self._hear)
        for message in pending:
            self._obey(message)
        try:
            while not self._stopped.is_set():
                if failure := self._failure():
                    return fail(failure)
                if self._alone and not self._desks.open:
                    break
                self._look()
                await self._pause()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_WITHIN_S):
                    await self._models.close()
        self._repository.close()
        return 0

    def _failure(self) -> str:
        """Why this process must end, or nothing."""
        if self._repository.failure is not None:
            return f"a model failed to warm up: {self._repository.failure}"
        if dead := [model.name for model in self._repository.served if not self._alive(model)]:
            return f"the engine of model {dead[0]!r} died, and this process ends with it"
        return ""

    def _alive(self, model: ServedModel) -> bool:
        return model.batcher.alive or self._repository.state in ("new", "warming")

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY_S):
                await self._stopped.wait()

    def _warm_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self._repository.warm_up()
        if self._repository.state == "ready":
            with suppress(RuntimeError):  # the loop is closed: it was told to stop
                loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._desks.warm()
        self._models.start(revive=False)
        self._send(Kind.READY)
        self._send(Kind.SERVED, self._served())

    # --- what is served ---

    def _look(self) -> None:
        """Offers the fronts what is served now."""
        if self._desks.change(self._repository.served, self._repository.failures):
            self._send(Kind.SERVED, self._served())
        self._desks.invite_those_behind()
        for front in self._desks.hung():
            self._send(Kind.HUNG, NUMBER.pack(front))

    def _served(self) -> bytes:
        keys = [(model.name, int(model.version)) for model in self._repository.served]
        heritage = Heritage(served=keys, unloaded=sorted(self._models.unloaded), groups=self._groups)
        return heritage.model_dump_json().encode()

    async def _carry_out(self, number: bytes, order: bytes) -> None:
        outcome = await carry_out(self._models, order, self._everywhere)
        self._send(Kind.OUTCOME, number + outcome)

    async def _everywhere(self) -> bool:
        self._look()
        return await self._desks.everywhere(_EVERYWHERE_WITHIN_S)

    # --- what the supervisor says ---

    def _hear(self) -> None:
        try:
            messages = self._control.pending()
        except EOFError:  # the fronts finish what is in flight, and need the engines until then
            self._alone = True
            asyncio.get_running_loop().remove_reader(self._control.connection.fileno())
            return
        for message in messages:
            self._obey(message)

    def _obey(self, message: Message) -> None:
        if message.kind == Kind.LINK and message.fd < 0:
            logger.error("no descriptor is free for a connection to a front; another is asked for")
        elif message.kind == Kind.LINK:
            self._look()
            self._desks.add(NUMBER.unpack(message.body)[0], socket.socket(fileno=message.fd))
        elif message.kind == Kind.SCRAPE:
            self._send(Kind.SAMPLES, message.body + self._metrics.render())
        elif message.kind == Kind.LOOK:
            self._send(Kind.PARTS, message.body + self._watched.part().model_dump_json().encode())
        elif message.kind == Kind.ORDER:
            number, order = message.body[: NUMBER.size], message.body[NUMBER.size :]
            task = asyncio.get_running_loop().create_task(self._carry_out(number, order))
            self._orders.add(task)
            task.add_done_callback(self._orders.discard)
        elif message.kind == Kind.STOP:
            self._stopped.set()

    def _send(self, kind: Kind, body: bytes = b"") -> None:
        with suppress(OSError):  # the supervisor is gone, which is heard next
            self._control.send(kind, body)


def fail(message: str) -> int:
    """Prints why the process ends; returns its exit code."""
    print(f"skipvit-serve: {message}", file=sys.stderr, flush=True)
    return 1


def opened(root: Path, settings: Settings, heritage: Heritage | None) -> tuple[Repository, Heritage]:
    """The repository of a first process, or of one that comes after another.

    Raises:
        ArtifactError, EngineUnavailable, GroupError: it cannot be served.
    """
    if heritage is not None:
        return Repository.reopen(root, settings, heritage.served), heritage
    repository = Repository.open(root, settings)
    try:
        groups = open_groups(settings, repository.models)
    except GroupError:
        repository.close()
        raise
    return repository, Heritage(groups={name: group.task for name, group in groups.items()})


def main() -> int:
    """Serves until told to stop; returns the exit code."""
    try:
        control, given, pending = started(int(sys.argv[1]))
    except EOFError:
        return 0
    settings = Settings(**given["settings"])
    set_up_logging(settings.log_format)
    left = given.get("heritage")
    try:
        repository, heritage = opened(Path(given["models_dir"]), settings, left and Heritage.model_validate(left))
    except (ArtifactError, EngineUnavailable, GroupError) as error:
        return fail(str(error))
    if any(model.task != "classification" for model in repository.served):
        return_large_blocks()
    return asyncio.run(EngineProcess(settings, repository, control, heritage).run(pending))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    flush_log()
    os._exit(code)  # at once: a thread may hang in an engine, and nothing is left to be written
