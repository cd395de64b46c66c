"""An event loop whose clock jumps: whoever sleeps is woken at once, and the clock says that the time has passed."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Jumping()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run_at_once(scenario: Coroutine[Any, Any, T]) -> T:
    """Plays what sleeps and waits for sleepers alone; its clock begins at 0."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(scenario)
