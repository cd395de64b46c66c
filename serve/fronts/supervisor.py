"""The process that the user started, with ``--fronts``: it starts the others, and again when they die, and ends them.

One process runs the engines. ``fronts`` others each listen on the same port (SO_REUSEPORT: the system shares new
connections out) and are connected to it by pairs of sockets that are made here and handed to both. A front that dies
takes the requests that it held with it; the engine's process takes none, for its fronts answer them with 503. Either
is started again, at once the first time, and after ever longer pauses while it keeps dying.
"""

import contextlib
import logging
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import orjson

from serve.fronts.control import DRAIN, SCRAPE, SIGNALS, Control, Kind, Message
from serve.fronts.scrape import Scrapes
from serve.fronts.share import share_of
from serve.fronts.spawn import Role, spawn
from serve.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HEALTHY_AFTER_S = 10.0
_EXIT_WITHIN_S = 15.0


@dataclass(eq=False)
class Seat:
    """A place for a process: the one in it now, if any, and when the next may be started."""

    role: Role
    process: subprocess.Popen[bytes] | None = None
    control: Control | None = None
    ready: bool = False
    started: float = 0.0
    due: float = 0.0
    deaths: int = 0  # in a row, without a time of health in between

    def pause_s(self) -> float:
        """How long to wait after so many deaths."""
        if self.deaths <= 1:
            return 0.0
        return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self.deaths - 2, 10)))

    def wait_for_next(self) -> float:
        """Has the next process start no sooner than after the pause, which is returned."""
        self.due = time.monotonic() + self.pause_s()
        return self.pause_s()


@dataclass
class _Orders:
    """What signals have asked for so far."""

    signals: list[int] = field(default_factory=list)


class Supervisor:
    """Keeps one process of engines and so many fronts running. ``claim`` is bound to their port and holds it."""

    def __init__(
        self, models_dir: Path, settings: Settings, claim: socket.socket, announce: Callable[[], None]
    ) -> None:
        self._models_dir = models_dir
        self._settings = settings
        self._port = int(claim.getsockname()[1])
        self._announce = announce
        self._announced = False
        self._engine = Seat("engine")
        self._fronts = [Seat("front") for _ in range(settings.fronts)]
        self._seats = [self._engine, *self._fronts]
        self._selector = selectors.DefaultSelector()
        self._orders = _Orders()
        self._obeyed = 0
        self._leave_by: float | None = None
        self._scrapes = Scrapes()
        self._code: int | None = None

    def run(self) -> int:
        """Blocks until the server has ended; returns the exit code."""
        with _signals(self._orders) as wakeup:
            self._selector.register(wakeup, selectors.EVENT_READ, None)
            try:
                while self._code is None:
                    self._start_what_is_due()
                    self._wait(wakeup)
                    self._scrapes.expire()
                    self._obey()
                return self._code
            finally:
                for seat in self._seats:
                    self._kill(seat)

    def _wait(self, wakeup: socket.socket) -> None:
        dues = [seat.due for seat in self._seats if seat.process is None and self._leave_by is None]
        moments = [*dues, *([self._leave_by] if self._leave_by else []), *self._scrapes.deadlines()]
        timeout = max(0.0, min(moments) - time.monotonic()) if moments else None
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(64)
            else:
                self._hear(key.data)

    # --- starting and ending ---

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.process is None and self._leave_by is None and now >= seat.due:
                self._start(seat)

    def _start(self, seat: Seat) -> None:
        try:
            seat.process, ours = spawn(seat.role)
        except OSError as error:  # such as no memory or no descriptor for another process; there may be later
            seat.deaths += 1
            pause_s = seat.wait_for_next()
            logger.error("the %s cannot be started (%s); tried again in %g s", _NAMES[seat.role], error, pause_s)
            return
        seat.control, seat.ready, seat.started = Control(ours), False, time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, seat)
        settings = self._settings if seat.role == "engine" else share_of(self._settings)
        given = {**settings.model_dump(mode="json"), "port": self._port}
        self._tell(seat, Kind.START, orjson.dumps({"models_dir": str(self._models_dir), "settings": given}))
        for front in self._fronts if seat.role == "engine" else [seat]:
            self._connect(front, seat)

    def _connect(self, front: Seat, new: Seat) -> None:
        """Gives a front and the engine's process, of which one is new, the two ends of a connection."""
        if front.control is None or self._engine.control is None:
            return
        try:
            one, other = socket.socketpair()
        except OSError:  # without it the new one is of no use; its end is heard next, and another is started
            assert new.process is not None, "it was just started"
            new.process.kill()
            return
        with one, other:
            self._tell(front, Kind.LINK, fds=(one.fileno(),))
            self._tell(self._engine, Kind.LINK, fds=(other.fileno(),))

    def _tell(self, seat: Seat, kind: Kind, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        if seat.control is None:
            return
        try:
            seat.control.send(kind, body, fds)
        except OSError:  # it died, which is heard next; or it hangs, and must die
            assert seat.process is not None, "who has a control connection is running"
            seat.process.kill()

    def _bury(self, seat: Seat) -> None:
        """Takes note of a death."""
        assert seat.process is not None and seat.control is not None, "it was running"  # noqa: PT018
        self._selector.unregister(seat.control.connection)
        seat.control.close()
        try:
            code = seat.process.wait(_EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            seat.process.kill()
            code = seat.process.wait()
        seat.process = seat.control = None
        self._scrapes.bury(seat)
        if self._leave_by is not None:
            self._after_leaving(seat, code)
        elif code > 0 and not self._announced:
            self._code = code  # it has said why
        else:
            healthy = seat.ready and time.monotonic() - seat.started >= _HEALTHY_AFTER_S
            seat.deaths = 1 if healthy else seat.deaths + 1
            pause_s = seat.wait_for_next()
            logger.error("the %s ended with %d; another is started in %g s", _NAMES[seat.role], code, pause_s)

    def _after_leaving(self, seat: Seat, code: int) -> None:
        if seat.role == "front" and code != 0:
            logger.error("a front ended with %d during the drain", code)
        if any(front.process for front in self._fronts):
            return
        if self._engine.process is None:
            self._code = 0
        elif seat.role == "front":
            self._tell(self._engine, Kind.STOP)

    def _kill(self, seat: Seat) -> None:
        if seat.process is not None:
            seat.process.kill()
            seat.process.wait()

    # --- what is heard ---

    def _hear(self, seat: Seat) -> None:
        if seat.control is None:  # it died a moment ago
            return
        try:
            messages = seat.control.pending()
        except EOFError:
            self._bury(seat)
            return
        for message in messages:
            self._answer(seat, message)

    def _answer(self, seat: Seat, message: Message) -> None:
        if message.kind == Kind.READY:
            seat.ready = True
            if not self._announced and all(front.ready for front in self._fronts):
                self._announced = True
                self._announce()
        elif message.kind == Kind.SCRAPE:
            others = [other for other in self._seats if other is not seat and other.control is not None and other.ready]
            [number] = SCRAPE.unpack_from(message.body)
            own = message.body[SCRAPE.size :]
            key = self._scrapes.begin(seat, own, others, lambda texts: self._give(seat, number, texts))
            for other in others:
                self._tell(other, Kind.SCRAPE, SCRAPE.pack(key))
        elif message.kind == Kind.SAMPLES:
            [key] = SCRAPE.unpack_from(message.body)
            self._scrapes.add(key, seat, message.body[SCRAPE.size :])

    def _give(self, seat: Seat, number: int, texts: list[bytes]) -> None:
        self._tell(seat, Kind.SAMPLES, SCRAPE.pack(number) + orjson.dumps([text.decode() for text in texts]))

    # --- signals ---

    def _obey(self) -> None:
        for sig in self._orders.signals[self._obeyed :]:
            self._obeyed += 1
            if self._leave_by is not None:
                self._code = 0  # asked twice: now
            else:
                self._leave(self._settings.lame_duck_s if sig == signal.SIGTERM else 0.0)
        if self._leave_by is not None and time.monotonic() >= self._leave_by and self._code is None:
            logger.error("some processes have not ended in time, and are killed")
            self._code = 1

    def _leave(self, lame_duck_s: float) -> None:
        if not any(front.ready and front.process is not None for front in self._fronts):
            self._code = 0  # nothing is in flight, and who is starting does not listen
            return
        self._leave_by = time.monotonic() + lame_duck_s + self._settings.drain_s + _EXIT_WITHIN_S
        for front in self._fronts:
            self._tell(front, Kind.DRAIN, DRAIN.pack(lame_duck_s))


_NAMES = {"engine": "process of the engines", "front": "front"}


@contextlib.contextmanager
def _signals(orders: _Orders) -> Iterator[socket.socket]:
    """Notes SIGTERM and SIGINT, and gives a socket that is readable when one came."""

    def note(sig: int, _frame: FrameType | None) -> None:
        orders.signals.append(sig)

    wakeup, sender = socket.socketpair()
    wakeup.setblocking(False)
    sender.setblocking(False)
    before_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    before = {sig: signal.signal(sig, note) for sig in SIGNALS}
    try:
        yield wakeup
    finally:
        signal.set_wakeup_fd(before_fd)
        for sig, handler in before.items():
            signal.signal(sig, handler)
        wakeup.close()
        sender.close()
