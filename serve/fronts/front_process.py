"""A front: HTTP, admission, decoding and encoding in a process of its own. Started by the supervisor only.

    python -m serve.fronts.front_process FD

FD is its end of the control connection. Signals are for the supervisor; the end of that connection is the end of the
front, once what is in flight is finished.
"""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from serve.app import create_app
from serve.fronts.control import DRAIN, Control, Kind, Message, started
from serve.fronts.link import FrontLink
from serve.fronts.models import FrontRepository
from serve.fronts.others import Others
from serve.fronts.wire import is_ours
from serve.heap import return_large_blocks
from serve.monitoring.logs import set_up_logging
from serve.settings import Settings
from serve.web.http_server import HttpServer, listen

logger = logging.getLogger(__name__)

# For tiles, of which the engines need no more at a time.
_SPARE_SLOTS = 128


class FrontServer(HttpServer):
    """The HTTP server of a front, which listens to the supervisor too; ``pending`` is what that has said already."""

    repository: FrontRepository
    settings: Settings

    def __init__(
        self, settings: Settings, root: Path, link: FrontLink, control: Control, pending: Sequence[Message] = ()
    ) -> None:
        self.settings = settings
        self.repository = FrontRepository(link, settings, root)
        self._control = control
        self._pending = pending
        self._others = Others(control, link.groups)
        self.app = create_app(settings, self.repository, self._others)
        self.repository.forget_version = self._forget
        super().__init__(self.app, settings, self.repository, lambda: control.send(Kind.READY), self.app.state.shedding)

    def _forget(self, name: str, version: str) -> None:
        self.app.state.metrics.forget(name, version)
        self.app.state.statistics.forget(name, version)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for message in self._pending:
            self._obey(message)
        self.listen_to_control()

    def listen_to_control(self) -> None:
        """Has what the supervisor says obeyed on the running loop.

        It is read by a thread: uvloop's readers fall silent without a word where the other end has closed and left
        something unread, and the front would go on for ever.
        """
        listening = (asyncio.get_running_loop(),)
        threading.Thread(target=self._listen, args=listening, name="control", daemon=True).start()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            try:
                while True:
                    for message in self._control.receive():
                        loop.call_soon_threadsafe(self._obey, message)
            except (EOFError, OSError):
                loop.call_soon_threadsafe(self._go_alone)

    def _go_alone(self) -> None:
        logger.error("the supervisor is gone; this front finishes what is in flight, and exits")
        if not self.leaving:  # to be told twice would cut off what is in flight
            self.leave(0.0)

    def _obey(self, message: Message) -> None:
        if message.kind == Kind.LINK and message.fd < 0:
            logger.error("no descriptor is free for what is served now; the engine's process offers it again")
        elif message.kind == Kind.LINK:
            link = new_link(message, self.settings)
            threading.Thread(target=self._change_over, args=(link,), name="new-link", daemon=True).start()
        elif message.kind == Kind.DRAIN:
            self.leave(*DRAIN.unpack(message.body))
        elif message.kind == Kind.SCRAPE:
            self._control.send(Kind.SAMPLES, message.body + self.app.state.metrics.render())
        elif message.kind == Kind.LOOK:
            self._control.send(Kind.PARTS, message.body + self.app.state.watched.part().model_dump_json().encode())
        else:
            self._others.hear(message)

    def _change_over(self, link: FrontLink) -> None:
        with contextlib.suppress(EOFError, OSError):  # it ended while it was starting; there will be another
            link.read_table()
            self.repository.adopt(link)


def new_link(message: Message, settings: Settings) -> FrontLink:
    """The front's end of a connection that came with a message."""
    return FrontLink(socket.socket(fileno=message.fd), settings.max_in_flight + _SPARE_SLOTS, _SPARE_SLOTS)


def first_link(control: Control, pending: list[Message], settings: Settings) -> tuple[FrontLink, list[Message]]:
    """Waits for an engine that has opened its models, and returns with it what was said since.

    Raises:
        EOFError: the supervisor is gone, or the server ends.
    """
    while True:
        for place, message in enumerate(pending):
            if message.kind == Kind.DRAIN:
                raise EOFError
            if message.kind == Kind.LINK:
                link = new_link(message, settings)
                with contextlib.suppress(EOFError, OSError):
                    link.read_table()
                    return link, pending[place + 1 :]
        pending = control.receive()


def main() -> int:
    """Serves until told to stop; returns the exit code."""
    try:
        control, given, pending = started(int(sys.argv[1]))
        settings = Settings(**given["settings"])
        set_up_logging(settings.log_format)
        link, pending = first_link(control, pending, settings)
    except EOFError:
        return 0
    changes = settings.watch_s or settings.model_control != "none"
    if changes or any(not is_ours(row) or row.manifest.task != "classification" for row in link.table):
        return_large_blocks()
    listener = listen(settings.host, settings.port, shared=True)
    FrontServer(settings, Path(given["models_dir"]), link, control, pending).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
