"""Changes of what is served, one at a time; but never behind one that hangs."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from serve.errors import NotReady, quoted
from serve.models.background import PATIENCE_S, Background

logger = logging.getLogger(__name__)

T = TypeVar("T")
MOST_ASIDE = 2
"""Changes that have given their turn up, after which no other load begins."""


class OneAtATime:
    """Turns for changes of models. A change that hangs gives its turn up, and from then on keeps only its own model.

    Whether it hangs or is only slow cannot be told, so it may come to need its memory beside the loads that overtake
    it. These are bounded: with ``MOST_ASIDE`` of them under way no other begins, and so never more than one load
    beside those. An engine that died is started again even then, in the memory that it had.

    All of it is for the event loop.
    """

    def __init__(self, work: Background) -> None:
        self.overtaken = 0  # changes that have given their turn up
        self._work = work
        self._lock = asyncio.Lock()
        self._aside: dict[str, float] = {}

    @asynccontextmanager
    async def turn(self, name: str | None = None, *, loads: bool = False) -> AsyncIterator[None]:
        """Waits until no other change is under way, and keeps the others waiting.

        Raises:
            NotReady: one of the model called ``name`` hangs, or it ``loads`` and too many do.
        """
        self._refuse_if_aside(name)
        async with self._lock:
            self._refuse_if_aside(name)
            if loads:
                self._refuse_if_full()
            yield

    async def in_thread(self, name: str, work: Callable[..., T], *arguments: Any) -> T:
        """Calls ``work``, a part of a change of the model ``name`` that has its turn, in the loader's thread.

        If that takes long, others have their turns before it is this one's again.
        """
        try:
            return await self._work.in_thread(work, *arguments, late=partial(self._set_aside, name))
        finally:
            if name in self._aside:
                await self._lock.acquire()
                del self._aside[name]

    async def look(self, work: Callable[..., T], *arguments: Any) -> T:
        """As ``in_thread``, for a look into the repository that is for no one model: it takes no memory of note."""
        late = False

        def set_aside() -> None:
            nonlocal late
            logger.warning("a look into the model repository takes more than %g s; loads go on without it", PATIENCE_S)
            late = True
            self._give_up_turn()

        try:
            return await self._work.in_thread(work, *arguments, late=set_aside)
        finally:
            if late:
                await self._lock.acquire()

    def hangs(self, name: str) -> bool:
        """Whether a change of this model has given its turn up, and not ended."""
        return name in self._aside

    @property
    def full(self) -> bool:
        """Whether so many changes hang that no load may begin."""
        return len(self._aside) >= MOST_ASIDE

    def _set_aside(self, name: str) -> None:
        logger.warning("a load of model %r takes more than %g s; those of others go on without it", name, PATIENCE_S)
        self._aside[name] = time.monotonic()
        self._give_up_turn()

    def _give_up_turn(self) -> None:
        self.overtaken += 1
        self._lock.release()

    def _refuse_if_aside(self, name: str | None) -> None:
        if name in self._aside:
            seconds = PATIENCE_S + time.monotonic() - self._aside[name]
            raise NotReady(
                f"a load of model {quoted(name)} is under way for {seconds:.0f} s, and what was served before still is",
                "ask again when it has ended; if it never does, start the server anew",
            )

    def _refuse_if_full(self) -> None:
        if self.full:
            raise NotReady(
                f"loads of {', '.join(map(quoted, self._aside))} are under way for over {PATIENCE_S:g} s, and another "
                "beside them might find no memory",
                "ask again when they have ended; if they never do, start the server anew",
            )
