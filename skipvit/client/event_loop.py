"""The event loop of a load: uvloop's where that is installed, which takes a quarter less of the cores."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop whose clock is good for measuring latencies."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()

    class ExactLoop(uvloop.Loop):
        """Its own clock counts milliseconds."""

        def time(self) -> float:
            return time.monotonic()

    return ExactLoop()


def run(load: Coroutine[Any, Any, T]) -> T:
    """Runs a load to its end."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(load)
