"""Work beside the requests: tasks of the event loop, and one thread for what would hold it up.

A thread that hangs is left to itself, and another takes its place.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serve.engines.engine import EngineLost

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_S = 60.0
"""Some models take minutes to open; others have waited long enough for them then."""
_CLOSE_WITHIN_S = 5.0


class Background:
    """Tasks that are kept until they end, and a thread that does one thing at a time.

    ``expected`` errors of a task are for whoever waits for it; any other is logged too.
    """

    def __init__(self, name: str, *expected: type[Exception]) -> None:
        self._expected = expected
        self._name = name
        self._thread = self._new_thread()
        self._free = asyncio.Lock()  # the thread
        self._over = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        """Tasks that have not ended."""
        return len(self._tasks)

    @property
    def closing(self) -> bool:
        """Whether the server is ending, and nothing new is to be begun."""
        return self._closing.is_set()

    async def close(self) -> None:
        """Waits a little for what is being done, and ends."""
        self._closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_WITHIN_S)
        self._over = True
        self._thread.shutdown(wait=False)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Starts a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._expected):
            logger.error("%s failed", task.get_coro(), exc_info=error)

    async def in_thread(self, work: Callable[..., T], *arguments: Any, late: Callable[[], object] = lambda: None) -> T:
        """Calls ``work`` in the thread, after what was begun before.

        If that takes long, whatever comes after it has a thread of its own, and ``late`` is called, once.
        """
        async with self._free:
            if self._over:
                raise asyncio.CancelledError
            done = asyncio.get_running_loop().run_in_executor(self._thread, _contained, work, *arguments)
            await asyncio.wait({done}, timeout=PATIENCE_S)
            if not done.done():
                self._thread.shutdown(wait=False)
                self._thread = self._new_thread()
                late()
        return await done

    def _new_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=self._name)

    async def pause(self, seconds: float) -> bool:
        """Sleeps; whether the server is ending."""
        if seconds <= 0:
            return self.closing
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True


def _contained(work: Callable[..., T], *arguments: Any) -> T:
    """Calls ``work``. What would end the program, such as SystemExit, ends only what was to be done."""
    try:
        return work(*arguments)
    except (Exception, EngineLost):
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
