"""A place for a process of the supervisor's, and what it knows of whoever is in it."""

import subprocess
import time
from dataclasses import dataclass

from serve.fronts.control import Control
from serve.fronts.spawn import Role

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


@dataclass(eq=False)
class Seat:
    """A place for a process: the one in it now, if any, and when the next may be started."""

    role: Role
    number: int = 0  # of a front
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
