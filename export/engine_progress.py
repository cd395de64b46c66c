"""The progress bar of a build, from what TensorRT tells of its phases and their steps."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
_NO_BAR = "{desc}: {elapsed}{postfix}"
_BETWEEN_S = 0.1


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class Progress:
    """Draws how far a build is; where TensorRT does not tell, the time that passes.

    A phase runs inside one step of the phase around it, so all of them together give one fraction.

    Attributes:
        doing: name of the innermost phase that runs.
    """

    def __init__(self, name: str) -> None:
        self.doing = "Starting TensorRT"
        self._phases: list[_Phase] = []
        self._drawn_s = 0.0
        self._bar: tqdm[Any] = tqdm(total=1.0, desc=name, bar_format=_NO_BAR, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def fraction(self) -> float:
        """Between 0 and 1; it never falls."""
        return float(self._bar.n)

    def told(self, message: dict[str, Any]) -> None:
        """Takes one message of the process that builds: a phase began, made a step, or finished."""
        names = [phase.name for phase in self._phases]
        if "phase" in message:
            self._phases.append(_Phase(message["phase"], message["steps"]))
        elif "stepped" in message and message["stepped"] in names:
            phase = self._phases[names.index(message["stepped"])]
            phase.done = min(phase.steps, message["step"] + 1)
        elif "finished" in message and message["finished"] in names:  # and with it the phases inside it
            del self._phases[names.index(message["finished"]) :]
        self.refresh()

    def refresh(self) -> None:
        """Draws the bar, unless it was drawn a moment ago."""
        if self._phases:
            self.doing = self._phases[-1].name
            self._bar.bar_format = _BAR if self._phases[0].steps else _NO_BAR
        fraction = 0.0
        for phase in reversed(self._phases):
            fraction = min(1.0, (phase.done + fraction) / phase.steps) if phase.steps else 0.0
        self._bar.n = max(self._bar.n, fraction)
        self._bar.set_postfix_str(self.doing, refresh=False)
        if (now := time.monotonic()) - self._drawn_s > _BETWEEN_S:
            self._drawn_s = now
            self._bar.refresh()
