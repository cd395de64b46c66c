"""How a build is watched: TensorRT's log and progress, as messages to the process that waits for the engine."""

import sys
import threading
import time
from typing import Any, Protocol

_FEW_STEPS = 50  # of a phase are told one by one, of more one in a while
_WHILE_S = 0.05


class Tell(Protocol):
    """Sends one message."""

    def __call__(self, **message: Any) -> None: ...


def make_log(trt: Any, verbose: bool) -> Any:
    """A TensorRT logger that writes to stderr, and remembers the last error as ``last``."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.Severity.ERROR:
                self.last = " ".join(message.split())
            if verbose or severity <= trt.ILogger.Severity.ERROR:
                print(f"[{severity.name}] {message}", file=sys.stderr)

    return Log()


def make_monitor(trt: Any, tell: Tell, cancelled: threading.Event) -> Any | None:
    """Tells of phases and steps, and ends the build when it is cancelled; None where TensorRT has no such thing."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        """TensorRT may call it from several threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._told_s = 0.0
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            tell(phase=phase_name, steps=num_steps)

        def phase_finish(self, phase_name: str) -> None:
            tell(finished=phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if self._steps.get(phase_name, 0) <= _FEW_STEPS or now - self._told_s > _WHILE_S:
                self._told_s = now
                tell(stepped=phase_name, step=step)
            return not cancelled.is_set()

    return Monitor()
