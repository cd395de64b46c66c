"""What a front serves: models whose engines run in another process, as the routes know models."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from serve.batcher import Batcher, BatchReport, call_now
from serve.engines.engine import Rows
from serve.fronts.link import Deliver, FrontLink
from serve.fronts.wire import Measured, ModelRow
from serve.models.repository import Repository
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


class FrontRepository(Repository):
    """The models of the engine's process, by way of the newest link to it.

    While that is lost, all its models are down: requests are refused with 503, and the process stays alive.
    """

    def __init__(self, link: FrontLink, settings: Settings) -> None:
        self._settings = settings
        self._deliver: Deliver = call_now
        self._settled = threading.Event()
        self._link = link
        super().__init__(self._models_of(link))

    def start(self, deliver: Deliver, report: Callable[[ServedModel, BatchReport], None]) -> None:
        """Begins to work with the link that it was made with; ``report`` is for the process of the engines."""
        self._state = "warming"
        self._deliver = deliver
        self.adopt(self._link)

    def adopt(self, link: FrontLink) -> None:
        """Changes over to a link whose table was read, as soon as its models are warm."""
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
        # Each in one step, for the event loop may be looking. The table of the link is in the repository's order.
        table: dict[str, dict[str, ServedModel]] = {}
        for model in self._models_of(link):
            table.setdefault(model.name, {})[model.version] = model
        self._table = {**table}
        self._models = {name: next(iter(versions.values())) for name, versions in table.items()}
        self._link = link
        self._settled.set()

    def _models_of(self, link: FrontLink) -> list[RemoteModel]:
        models = [RemoteModel(row, link, place, self._settings) for place, row in enumerate(link.table)]
        for model in models:
            model.batcher.start(self._deliver if model.task == "classification" else call_now)
        return models
