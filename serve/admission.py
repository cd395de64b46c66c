"""Admission: how much may be in flight, and when to come back if it is too much.

A limit of pictures bounds memory; what a client feels is time. With a target, a request is admitted only while its
answer is expected within that time: pictures in flight times seconds a picture, as measured while the server was busy.

Retry-After has the time until what is in flight now will be done. It has no jitter of its own, since it would not be
true then: clients add theirs, as skipvit-client does.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from serve.errors import Overloaded, TooLarge
from serve.models.settings import ModelSettings
from serve.settings import Settings

_FORGET_S = 10.0  # the throughput estimate follows the last ten busy seconds
_LONGEST_RETRY_S = 60
_FRESH_S = 0.1


class Throughput:
    """Seconds a picture takes at the pace of the last ten seconds in which there was work."""

    __slots__ = ("_busy_s", "_done", "seconds_each")

    def __init__(self) -> None:
        # Decaying sums over time with something in flight: idle time says nothing about how fast this server is.
        self._busy_s = 0.0
        self._done = 0.0
        self.seconds_each = 0.0  # where nothing was measured yet

    def pass_time(self, seconds: float) -> None:
        """Adds time with work."""
        keep = math.exp(-seconds / _FORGET_S)
        self._busy_s = self._busy_s * keep + seconds
        self._done *= keep
        self._divide()

    def add(self, done: int) -> None:
        """Adds what was finished."""
        self._done += done
        self._divide()

    def _divide(self) -> None:
        if self._done:
            self.seconds_each = self._busy_s / self._done


class Places:
    """Counts what is in flight, pictures or pixels. Used on the event loop only, so it needs no lock.

    Args:
        limit: most in flight; infinite for no limit.
        what: it is called in messages.
        target_s: admit only what is expected to be done within this time; 0 for no such limit.
        floor: that many are admitted whatever is expected of them, since fewer would leave cores idle.
    """

    def __init__(
        self,
        limit: float,
        what: str,
        clock: Callable[[], float] = time.monotonic,
        target_s: float = 0.0,
        floor: int = 1,
    ) -> None:
        self.limit = limit
        self.in_flight = 0
        self._what = what
        self._clock = clock
        self._target_s = target_s
        self._floor = floor
        self._since = clock()
        self._throughput = Throughput()
        # The same while there was work for all cores: with less, the server looks slower than it is.
        self._at_full_load = Throughput() if target_s else None

    def check(self, count: int = 1) -> None:
        """Raises what ``refusal`` returns, if it is anything."""
        if (refusal := self.refusal(count)) is not None:
            raise refusal

    def refusal(self, count: int = 1) -> Overloaded | TooLarge | None:
        """Overloaded if ``count`` more would be over the limit, or are not expected to be done in time, or None.

        TooLarge of more than there are places altogether: to come again would be of no use.
        """
        total = self.in_flight + count
        if count > self.limit:
            return TooLarge(
                "too_many_files",
                f"{count} {self._what} came in one request, {self.limit:g} may be in flight",
                "send them in several requests",
            )
        if total > self.limit:
            return Overloaded(
                f"{self.in_flight} {self._what} are in flight and {count} more came, the limit is {self.limit:g}",
                self.retry_after_s(),
            )
        if self._target_s and self.in_flight and total > self._floor and total > self._in_time:
            return Overloaded(
                f"{self.in_flight} {self._what} are in flight and {count} more would not be done within the target of "
                f"{self._target_s * 1000:g} ms",
                self.retry_after_s(),
            )
        return None

    @property
    def _in_time(self) -> float:
        """How many in flight are expected to be done within the target."""
        full = self._at_full_load
        each_s = (full and full.seconds_each) or self._throughput.seconds_each
        return self._target_s / each_s if each_s else 0.0  # until something was measured, the floor is all

    def admit(self, count: int) -> None:
        """Takes ``count`` places, or raises Overloaded."""
        self.check(count)
        self.take(count)

    def take(self, count: int) -> None:
        """Takes ``count`` places that ``check`` found free."""
        self._pass_time()
        self.in_flight += count

    def release(self, count: int, answered: int) -> None:
        """Gives the places back; ``answered`` of the ``count`` got an answer."""
        self._pass_time()
        self._throughput.add(answered)
        if self._at_full_load is not None and self.in_flight >= self._floor:
            self._at_full_load.add(answered)
        self.in_flight -= count

    def retry_after_s(self) -> int:
        """Seconds until what is in flight now will be done, at the measured throughput."""
        if self._clock() - self._since > _FRESH_S:  # refusals come by the hundred in a second
            self._pass_time()
        if not self._throughput.seconds_each:
            return 1  # nothing measured yet
        return max(1, math.ceil(min(_LONGEST_RETRY_S, self.in_flight * self._throughput.seconds_each)))

    def _pass_time(self) -> None:
        now = self._clock()
        if self.in_flight:
            self._throughput.pass_time(now - self._since)
            if self._at_full_load is not None and self.in_flight >= self._floor:
                self._at_full_load.pass_time(now - self._since)
        self._since = now


@contextmanager
def taken(count: int, *all_places: Places) -> Iterator[Callable[[], None]]:
    """Takes ``count`` places of each, or none; gives them back at the end.

    What is yielded is called where they got an answer.

    Raises:
        Overloaded: one of them has no room.
        TooLarge: one of them has fewer in all.
    """
    for places in all_places:
        places.check(count)
    for places in all_places:
        places.take(count)
    answered = 0

    def answer() -> None:
        nonlocal answered
        answered = count

    try:
        yield answer
    finally:
        for places in all_places:
            places.release(count, answered)


class Admission(Places):
    """Counts pictures and buffered bytes in flight, and the pictures of each model."""

    def __init__(
        self,
        limit: int,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        target_s: float = 0.0,
        floor: int = 1,
        models: Mapping[str, ModelSettings] | None = None,
    ) -> None:
        super().__init__(limit, "pictures", clock, target_s, floor)
        self.max_bytes = max_bytes
        self.buffered = 0
        self._models = {
            name: (
                Places(
                    own.max_in_flight or math.inf,
                    f"pictures for model {name!r}",
                    clock,
                    (own.target_ms or 0.0) / 1000,
                    floor,
                ),
            )
            for name, own in (models or {}).items()
            if own.max_in_flight or own.target_ms
        }

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What the settings allow.

        Two pictures for each decode thread are always admitted, one in work and one that waits. With fewer, cores idle
        while an answer leaves and the next request comes, the pace that is measured falls, and fewer still would be
        let in: on two cores, a target that left room for three held the server at four fifths of its peak.
        """
        target_s = settings.target_ms / 1000
        floor = 2 * settings.decoders
        return cls(
            settings.max_in_flight, settings.max_buffered_bytes, time.monotonic, target_s, floor, settings.models
        )  # fmt: skip

    def of(self, model: str) -> tuple[Places, ...]:
        """The places of a model, in all its versions and on all routes, if it has any beside those of the route."""
        return self._models.get(model, ())

    def buffer(self, size: int) -> None:
        """Takes memory for body bytes, or raises Overloaded."""
        if self.buffered + size > self.max_bytes:
            raise Overloaded(
                f"{self.buffered} bytes of request bodies are held and {size} more came, the limit is {self.max_bytes}",
                self.retry_after_s(),
            )
        self.buffered += size

    def unbuffer(self, size: int) -> None:
        """Gives memory back."""
        self.buffered -= size
