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
from collections.abc import Iterator
from itertools import count

import orjson

from serve.app import create_app
from serve.errors import NotReady
from serve.fronts.control import DRAIN, SCRAPE, Control, Kind, Message, started
from serve.fronts.link import FrontLink
from serve.fronts.metrics import merged
from serve.fronts.models import FrontRepository
from serve.heap import return_large_blocks
from serve.monitoring.logs import set_up_logging
from serve.settings import Settings
from serve.web.http_server import HttpServer, listen

logger = logging.getLogger(__name__)

_SCRAPE_WITHIN_S = 5.0
# For tiles, of which the engines need no more at a time.
_SPARE_SLOTS = 128


class FrontServer(HttpServer):
    """The HTTP server of a front, which listens to the supervisor too."""

    repository: FrontRepository
    settings: Settings

    def __init__(self, settings: Settings, link: FrontLink, control: Control) -> None:
        self.settings = settings
        self.repository = FrontRepository(link, settings)
        self._control = control
        self._numbers = count()
        self._scrapes: dict[int, asyncio.Future[list[bytes]]] = {}
        self.app = create_app(settings, self.repository, self.everybody)
        super().__init__(self.app, settings, self.repository, lambda: control.send(Kind.READY))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._control.connection.fileno(), self._listen_to_control)

    async def everybody(self, own: bytes) -> bytes:
        """The metrics of all processes. Raises NotReady if they cannot be had: some alone would look like a reset."""
        number = next(self._numbers)
        answer = self._scrapes[number] = asyncio.get_running_loop().create_future()
        try:
            self._control.send(Kind.SCRAPE, SCRAPE.pack(number) + own)
            async with asyncio.timeout(_SCRAPE_WITHIN_S):
                return merged([own, *await answer])
        except (OSError, TimeoutError):
            raise NotReady("the other processes of this server did not give their metrics", "scrape again") from None
        finally:
            del self._scrapes[number]

    def _listen_to_control(self) -> None:
        try:
            messages = self._control.pending()
        except EOFError:
            logger.error("the supervisor is gone; this front finishes what is in flight, and exits")
            asyncio.get_running_loop().remove_reader(self._control.connection.fileno())
            if not self.leaving:  # to be told twice would cut off what is in flight
                self.leave(0.0)
            return
        for message in messages:
            self._obey(message)

    def _obey(self, message: Message) -> None:
        if message.kind == Kind.LINK:
            link = new_link(message, self.settings)
            threading.Thread(target=self._change_over, args=(link,), name="new-link", daemon=True).start()
        elif message.kind == Kind.DRAIN:
            self.leave(*DRAIN.unpack(message.body))
        elif message.kind == Kind.SCRAPE:
            self._control.send(Kind.SAMPLES, message.body + self.app.state.metrics.render())
        elif message.kind == Kind.SAMPLES:
            number = SCRAPE.unpack_from(message.body)[0]
            answer = self._scrapes.get(number)
            if answer is not None and not answer.done():
                answer.set_result([text.encode() for text in orjson.loads(message.body[SCRAPE.size :])])

    def _change_over(self, link: FrontLink) -> None:
        with contextlib.suppress(EOFError, OSError):  # it ended while it was starting; there will be another
            link.read_table()
            self.repository.adopt(link)


def new_link(message: Message, settings: Settings) -> FrontLink:
    """The front's end of a connection that came with a message."""
    return FrontLink(socket.socket(fileno=message.fd), settings.max_in_flight + _SPARE_SLOTS, _SPARE_SLOTS)


def first_link(control: Control, pending: list[Message], settings: Settings) -> FrontLink:
    """Waits for an engine that has opened its models. Raises EOFError when the supervisor is gone."""
    while True:
        for message in pending:
            if message.kind == Kind.DRAIN:
                raise EOFError
            if message.kind == Kind.LINK:
                link = new_link(message, settings)
                with contextlib.suppress(EOFError, OSError):
                    link.read_table()
                    return link
        pending = control.receive()


def main() -> int:
    """Serves until told to stop; returns the exit code."""
    try:
        control, given, pending = started(int(sys.argv[1]))
        settings = Settings(**given["settings"])
        set_up_logging(settings.log_format)
        link = first_link(control, pending, settings)
    except EOFError:
        return 0
    if any(row.manifest.task != "classification" for row in link.table):
        return_large_blocks()
    listener = listen(settings.host, settings.port, shared=True)
    FrontServer(settings, link, control).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
