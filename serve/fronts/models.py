"""What a front serves: models whose engines run in another process, as the routes know models."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from serve.batcher import Batcher, BatchReport, call_now
from serve.engines.engine import Rows
from serve.foreign.model import ForeignModel
from serve.fronts.link import FrontLink
from serve.fronts.sent import Deliver
from serve.fronts.wire import ForeignRow, Measured, ModelRow
from serve.models.control import REMEMBERED_VERSIONS
from serve.models.repository import Failure, Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from serve.ticket import Ticket
from skipvit.artifacts import Entry
from skipvit.transforms import Pixels


class RemoteBatcher(Batcher):
    """Hands tickets to the batcher of the engine's process, where those of all fronts meet.

    What is being decoded is not announced there: rows of several fronts rarely are in time for each other's batch.
    """

    def __init__(self, link: FrontLink, place: int, name: str, measured: Measured) -> None:
        self.name = name
        self.max_batch = measured.max_batch
        self.max_wait_s = measured.max_wait_s
        self._link = link
        self._place = place
        self._deliver: Deliver = call_now

    def start(self, deliver: Deliver, report: Callable[[BatchReport], None] | None = None) -> None:
        """Sets where tickets are finished. Batches are reported where they run."""
        self._deliver = deliver

    @property
    def has_threads(self) -> bool:
        return True

    @property
    def alive(self) -> bool:
        return self._link.alive

    @property
    def waiting(self) -> int:
        return self._link.waiting(self._place)

    def expect(self) -> None:
        pass

    def forget(self) -> None:
        pass

    def put(self, ticket: Ticket) -> None:
        ticket.waiting_since = time.perf_counter()
        self._link.submit(self._place, ticket, self._deliver)

    def close(self, timeout_s: float = 5.0) -> bool:
        return True


class _NoEngine:
    """Stands where a model's engine would be."""

    def run(self, batch: Pixels) -> Rows:
        raise RuntimeError("this model's engine runs in another process")

    def close(self) -> None:
        pass


class RemoteModel(ServedModel):
    """A model of the engine's process, made from what that says of it."""

    def __init__(self, row: ModelRow, link: FrontLink, place: int, settings: Settings) -> None:
        entry = Entry(row.manifest, Path(row.folder), row.labels)
        super().__init__(entry, _NoEngine(), settings, row.classes, row.engine)
        measured = link.warm.models[place] if link.warm else Measured()
        self.batcher = RemoteBatcher(link, place, self.name, measured)
        self.alone_s = measured.alone_s
        self.row_s = measured.row_s * settings.fronts  # what the engine can do is shared with the others
        self._tiles_ahead = measured.tiles_ahead

    @property
    def tiles_ahead(self) -> int:
        return self._tiles_ahead

    def warm_up(self) -> None:
        pass


class RemoteForeignModel(ForeignModel):
    """A model of the engine's process that is not ours, made from what that says of it."""

    def __init__(self, row: ForeignRow, link: FrontLink, place: int) -> None:
        self.path, self.config, self.signature = Path(row.path), row.config, row.signature
        self._labels = row.labels
        batcher = RemoteBatcher(link, place, row.name, link.warm.models[place] if link.warm else Measured())
        self._set_up(row.name, row.version, "tensors", self.path.parent, row.engine, _NoEngine(), batcher)

    def warm_up(self) -> None:
        pass


class FrontRepository(Repository):
    """The models of the engine's process, by way of the newest link to it. Changed on the event loop only.

    While that is lost, all its models are down: requests are refused with 503, and the process stays alive.
    ``forget_version`` is called with the name and version of models that have long been out of service.
    """

    def __init__(self, link: FrontLink, settings: Settings, root: Path) -> None:
        self.forget_version: Callable[[str, str], object] = lambda _name, _version: None
        self._settings = settings
        self._deliver: Deliver = call_now
        self._settled = threading.Event()
        self._link = link
        self._gone: deque[tuple[str, str]] = deque()
        super().__init__(self._models_of(link), root)

    @property
    def waiting(self) -> int:
        """Those that have no slot; others wait in the process of the engines."""
        return self._link.unsent

    def start(self, deliver: Deliver, report: Callable[[ServedModel, BatchReport], None]) -> None:
        """Begins to work with the link that it was made with; ``report`` is for the process of the engines."""
        self._state = "warming"
        self._deliver = deliver
        self.adopt(self._link)

    def adopt(self, link: FrontLink) -> None:
        """Changes over to a link whose table was read, as soon as its models are warm. From any thread."""
        opened = partial(self._open, link)
        threading.Thread(target=link.run, args=(opened,), name="engine-link", daemon=True).start()

    def warm_up(self) -> None:
        """Waits for the first link to be open, or for the drain."""
        self._settled.wait()
        if self._state == "warming":
            self._state = "ready"

    def drain(self) -> None:
        super().drain()
        self._settled.set()

    def close(self) -> None:
        """Hangs up."""
        self._state = "closed"
        self._link.close()

    def _open(self, link: FrontLink) -> None:
        models = self._models_of(link)
        with suppress(RuntimeError):  # the event loop is closed
            self._deliver(partial(self._change_over, link, models))

    def _change_over(self, link: FrontLink, models: Sequence[ServedModel]) -> None:
        """Answers by another link. The engine hears of it before any request is sent by it."""
        if link.number < self._link.number:  # a newer one was faster
            link.close()
            return
        link.adopt()
        old, old_models = self._link, self.served
        self._table, self._models = {}, {}
        for model in models:
            self.put(model)
        self.failures = {(row.name, row.version): Failure(row.reason, ()) for row in link.failed}
        self._link = link
        if old is not link:
            _close_when_idle(old, old_models)
        self._remember([(model.name, model.version) for model in old_models])
        self._settled.set()

    def _remember(self, before: Sequence[tuple[str, str]]) -> None:
        """Keeps the metrics of the versions that were last in service, long enough to be scraped."""
        for name, version in before:
            if version not in self.versions(name):
                self._gone.append((name, version))
        while len(self._gone) > REMEMBERED_VERSIONS:
            name, version = self._gone.popleft()
            if version not in self.versions(name):
                self.forget_version(name, version)

    def _models_of(self, link: FrontLink) -> list[ServedModel]:
        models: list[ServedModel] = []
        for place, row in enumerate(link.table):
            model: ServedModel
            if isinstance(row, ForeignRow):
                model = RemoteForeignModel(row, link, place)
            else:
                model = RemoteModel(row, link, place, self._settings)
            model.batcher.start(self._deliver if model.task == "classification" else call_now)
            models.append(model)
        return models


def _close_when_idle(link: FrontLink, models: Sequence[ServedModel]) -> None:
    """Hangs up when the last request is answered by any of the link's ``models``, of which no more are to come."""
    left = len(models)

    def one_is_idle() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            link.close()

    if not models:
        link.close()
    for model in models:
        model.when_idle(one_is_idle)
