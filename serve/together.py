"""What takes a while done once for all who want it, however many ask at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Does one thing for everybody who asks before it is begun again, never twice at a time.

    Nobody gets what was begun before he asked. On the event loop only.
    """

    def __init__(self) -> None:
        self._one = asyncio.Lock()  # at a time
        self._next: asyncio.Task[T] | None = None

    async def __call__(self, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` returns or raises, which is the same thing whoever asks for it."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(work))
            self._next.add_done_callback(_heard)
        return await asyncio.shield(self._next)  # whoever asked may hang up, and others wait too

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._one:
            self._next = None
            return await work()


def _heard(task: asyncio.Task[T]) -> None:
    """An error is for whoever waits; that nobody does any more is no news."""
    with suppress(asyncio.CancelledError):
        task.exception()
