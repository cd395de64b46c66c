"""Rests of an event loop that has nothing to do but to refuse."""

import asyncio
import threading
from collections.abc import Callable

_REST_S = 0.02
_TURNS = 8  # of the loop, in which what has begun before goes on: a task, and the write of its answer


class Rest:
    """Lets refused requests come by the handful: after one, the loop rests until an answer is there, or for 20 ms.

    A server that is asked for ten times what it can do would wake its loop for each refusal, and drive what its
    engines compute with out of the caches each time. All that comes during a rest waits, health checks too, and finds
    the loop's own code in the caches. Answers of classifiers end it: they wait for nothing, and each makes room for
    what may be admitted. What other threads do for the loop does not, such as each of the four steps of a picture that
    is denoised: there are no rests while ``others`` says that requests of other kinds are in flight.
    """

    def __init__(self, others: Callable[[], bool]) -> None:
        self._others = others
        self._news = threading.Event()
        self._due = False
        self._turns = 0

    def deliver_to(self, loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], None]], None]:
        """``loop.call_soon_threadsafe``, which a rest does not delay."""
        call_soon = loop.call_soon_threadsafe

        def deliver(call: Callable[[], None]) -> None:
            call_soon(call)
            if self._due:
                self._news.set()

        return deliver

    def after_this(self) -> None:
        """Has the running loop rest when it has done what is there to do, unless an answer comes before that."""
        if not self._due and not self._others():
            # What was delivered before this is called before the loop rests; what comes from now on ends the rest.
            self._news.clear()
            self._due = True
            self._turns = _TURNS
            self._pause_after_turns(asyncio.get_running_loop())

    def _pause_after_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._turns:
            self._turns -= 1
            loop.call_soon(self._pause_after_turns, loop)
        else:
            self._news.wait(_REST_S)
            self._due = False
