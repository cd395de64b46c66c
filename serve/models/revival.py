"""Engines that died are started again: at once the first time, and after ever longer pauses while they keep dying."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve.models.background import Background
from serve.models.loading import LoadFailed
from serve.models.one_at_a_time import OneAtATime
from serve.models.repository import Key, Repository
from serve.models.served_model import ServedModel

GIVE_UP_AFTER = 5
"""Restarts of an engine that fail in a row, after which the server says that a new process is needed."""
_LOOK_FOR_DEAD_S = 0.2
_STEADY_S = 60.0  # an engine that has run for so long is no longer one that keeps dying
_LONGEST_PAUSE_S = 30.0


def pause_s(failures: int) -> float:
    """Seconds before an engine is started again that died or failed to start ``failures`` times lately."""
    return min(_LONGEST_PAUSE_S, 0.5 * 2 ** min(failures - 1, 10)) if failures else 0.0


@dataclass(slots=True)
class _Health:
    """How often an engine died or failed to start lately, and when it was last tried."""

    troubles: int = 0
    failed: int = 0  # starts, in a row
    tried_at: float = 0.0


class Revival:
    """Looks for dead engines. All methods are for the event loop.

    ``bring`` loads a version and takes it into service, or raises LoadFailed.
    """

    def __init__(
        self, repository: Repository, work: Background, one: OneAtATime, bring: Callable[[str, int], Awaitable[None]]
    ) -> None:
        self._repository = repository
        self._work = work
        self._one = one
        self._bring = bring
        self._health: dict[Key, _Health] = {}
        self._reviving: set[Key] = set()

    def came_up(self, key: Key) -> None:
        """Takes note of a version that was taken into service, whoever wanted it."""
        if key in self._health:
            self._health[key].failed = 0

    def forget(self, key: Key) -> None:
        """Forgets a version that was taken out of service long ago."""
        self._health.pop(key, None)

    async def look_for_dead(self) -> None:
        """Has every engine that is found dead brought up again, until the server ends."""
        while not await self._work.pause(_LOOK_FOR_DEAD_S):
            if self._repository.refusal is not None:
                continue
            for model in self._repository.served:
                key = (model.name, int(model.version))
                if not model.batcher.alive and key not in self._reviving and not self._one.hangs(model.name):
                    self._reviving.add(key)
                    self._work.spawn(self._revive(key, model))

    async def _revive(self, key: Key, dead: ServedModel) -> None:
        health = self._health.setdefault(key, _Health())
        if time.monotonic() - health.tried_at > _STEADY_S:
            health.troubles = 0
        try:
            if await self._work.pause(pause_s(health.troubles)):
                return
            health.troubles += 1
            async with self._one.turn():
                if self._repository.versions(dead.name).get(dead.version) is not dead or self._one.hangs(dead.name):
                    return  # it was replaced or taken out meanwhile, or is about to be
                await self._one.in_thread(dead.name, dead.close)  # first, so that its memory is free for the next
                await self._bring(*key)
        except LoadFailed:
            health.failed += 1
            if health.failed >= GIVE_UP_AFTER:
                self._repository.given_up.add(key)
        finally:
            health.tried_at = time.monotonic()
            self._reviving.discard(key)
