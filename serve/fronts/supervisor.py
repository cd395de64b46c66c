"""The process that the user started, with ``--fronts``: it starts the others, and again when they die, and ends them.

One process runs the engines. ``fronts`` others each listen on the same port (SO_REUSEPORT: the system shares new
connections out) and are connected to it by pairs of sockets that are made here and handed to both. A front that dies
takes the requests that it held with it; the engine's process takes none, for its fronts answer them with 503. Either
is started again, at once the first time, and after ever longer pauses while it keeps dying. A front that hangs is
ended, when it does not take what the engine's process offers it: every load would wait for it.
"""

import contextlib
import logging
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from serve.errors import NotReady
from serve.fronts.control import DRAIN, NUMBER, Control, Kind, Message
from serve.fronts.relay import Relay
from serve.fronts.scrape import Scrapes, nothing
from serve.fronts.seat import Seat
from serve.fronts.share import share_of
from serve.fronts.signals import Orders, noted
from serve.fronts.spawn import spawn
from serve.fronts.wire import error_text
from serve.settings import Settings

logger = logging.getLogger(__name__)

_HEALTHY_AFTER_S = 10.0
_EXIT_WITHIN_S = 15.0
_START_WITHIN_S = 120.0  # what Python needs to read its packages from a slow disk, and more


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
        self._fronts = [Seat("front", number) for number in range(settings.fronts)]
        self._seats = [self._engine, *self._fronts]
        self._selector = selectors.DefaultSelector()
        self._orders = Orders()
        self._obeyed = 0
        self._leave_by: float | None = None
        self._collected = {Kind.SCRAPE: Scrapes(), Kind.LOOK: Scrapes(inherit=nothing)}
        self._relay = Relay()
        self._heritage: object = None  # of a process of the engines, for the next
        self._code: int | None = None

    def run(self) -> int:
        """Blocks until the server has ended; returns the exit code."""
        with noted(self._orders) as wakeup:
            self._selector.register(wakeup, selectors.EVENT_READ, None)
            try:
                while self._code is None:
                    self._start_what_is_due()
                    self._wait(wakeup)
                    for scrapes in self._collected.values():
                        scrapes.expire()
                    self._obey()
                return self._code
            finally:
                for seat in self._seats:
                    self._kill(seat)

    def _wait(self, wakeup: socket.socket) -> None:
        dues = [seat.due for seat in self._seats if seat.process is None and self._leave_by is None]
        deadlines = [moment for scrapes in self._collected.values() for moment in scrapes.deadlines()]
        moments = [*dues, *([self._leave_by] if self._leave_by else []), *deadlines]
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
        start = {"models_dir": str(self._models_dir), "settings": given, "heritage": self._heritage}
        self._tell(seat, Kind.START, orjson.dumps(start))
        for front in self._fronts if seat.role == "engine" else [seat]:
            self._connect(front, seat)

    def _connect(self, front: Seat, new: Seat | None = None) -> None:
        """Gives a front and the engine's process the two ends of a connection. ``new`` is of no use without it."""
        if front.control is None or self._engine.control is None:
            return
        try:
            one, other = socket.socketpair()
        except OSError:  # the new one's end is heard next, and another is started
            if new is not None and new.process is not None:
                new.process.kill()
            return
        number = NUMBER.pack(front.number)
        with one, other:
            self._tell(front, Kind.LINK, number, (one.fileno(),))
            self._tell(self._engine, Kind.LINK, number, (other.fileno(),))

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
        for scrapes in self._collected.values():
            scrapes.bury(seat)
        if seat.role == "engine":
            self._relay.give_up(_LOST)
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
        elif message.kind in self._collected:
            self._collect(seat, message)
        elif message.kind in _GIVES.values():
            asked = next(asked for asked, gives in _GIVES.items() if gives == message.kind)
            [key] = NUMBER.unpack_from(message.body)
            self._collected[asked].add(key, seat, message.body[NUMBER.size :])
        elif message.kind == Kind.INVITE:
            self._connect(self._fronts[NUMBER.unpack(message.body)[0]])
        elif message.kind == Kind.HUNG:
            self._end_hung(self._fronts[NUMBER.unpack(message.body)[0]])
        elif message.kind == Kind.SERVED:
            self._heritage = orjson.loads(message.body)
        elif message.kind == Kind.ORDER:
            self._pass_on(seat, message.body)
        elif message.kind == Kind.OUTCOME:
            self._relay.answer(message.body)

    def _end_hung(self, front: Seat) -> None:
        """Ends a front that hangs; its death is heard next. One that has just taken its place is only starting."""
        started = front.ready or time.monotonic() - front.started >= _START_WITHIN_S
        if front.process is not None and started and self._leave_by is None:  # a drain has a deadline of its own
            front.process.kill()

    def _pass_on(self, seat: Seat, order: bytes) -> None:
        """Has the process of the engines carry out an order of a front's."""
        control, (number,) = seat.control, NUMBER.unpack_from(order)

        def give(outcome: bytes) -> None:
            if seat.control is control:
                self._tell(seat, Kind.OUTCOME, NUMBER.pack(number) + outcome)

        if self._engine.control is None or not self._engine.ready:
            give(_LOST)
        else:
            self._tell(self._engine, Kind.ORDER, self._relay.key(give) + order[NUMBER.size :])

    def _collect(self, seat: Seat, message: Message) -> None:
        """Asks all processes for what a front wants to know of all."""
        others = [other for other in self._seats if other is not seat and other.control is not None and other.ready]
        control, (number,) = seat.control, NUMBER.unpack_from(message.body)

        def give(texts: list[bytes]) -> None:
            if seat.control is control:  # else it died, and the next in its place has asked for nothing
                answer = orjson.dumps([text.decode() for text in texts])
                self._tell(seat, _GIVES[message.kind], NUMBER.pack(number) + answer)

        key = self._collected[message.kind].begin(seat, message.body[NUMBER.size :], others, give)
        for other in others:
            self._tell(other, message.kind, NUMBER.pack(key))

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


_GIVES = {Kind.SCRAPE: Kind.SAMPLES, Kind.LOOK: Kind.PARTS}
_LOST = orjson.dumps(
    {"error": error_text(NotReady("the engine's process ended, and is being started again", "try again")).decode()}
)
_NAMES = {"engine": "process of the engines", "front": "front"}
