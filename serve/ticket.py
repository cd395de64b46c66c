"""A ticket: one row of a model's input between admission and answer, with what became of it and how long it took."""

import time
from collections.abc import Callable
from typing import Any, Literal

from serve.errors import RequestError
from serve.urgency import Priority

# Where a request's picture can be when its client goes away.
Where = Literal["read", "decode", "queue", "infer", "encode", "send"]


class Ticket:
    """One picture or tile between admission and answer. ``on_done`` is called once, where ``deliver`` runs it."""

    __slots__ = (
        "abandoned",
        "batch_size",
        "begun",
        "decode_s",
        "digest",
        "error",
        "infer_s",
        "on_abandoned",
        "on_done",
        "pixels",
        "priority",
        "queue_s",
        "result",
        "waiting_since",
    )

    def __init__(self, on_done: Callable[["Ticket"], None], priority: Priority = Priority.NORMAL) -> None:
        self.on_done = on_done
        self.priority = priority
        self.abandoned = False  # read by whoever would work on it next
        self.on_abandoned: Callable[[], None] | None = None  # where the work is done in another process
        self.pixels: Any = None  # uint8 pixels, or whatever else its batcher runs
        self.digest: Callable[[Any], Any] | None = None  # what is made of the row, away from the event loop
        self.result: Any = None  # the model's row for it: (classes,) float32, or uint8 pixels; or its digest
        self.error: RequestError | None = None
        self.batch_size = 0
        self.begun = 0  # stages that it entered: decoding, then a run of the model
        self.decode_s = self.queue_s = self.infer_s = 0.0
        self.waiting_since = time.perf_counter()

    def abandon(self) -> None:
        """Says that nobody wants the answer any more: what was not begun is not done."""
        self.abandoned = True
        tell = self.on_abandoned  # looked at once: another thread may be taking it back
        if tell is not None:
            tell()

    def answer(self, row: Any) -> None:
        """Takes the model's row for it."""
        self.result = row if self.digest is None else self.digest(row)

    def drop(self) -> None:
        """Called in place of ``on_done`` by a batcher that leaves it out: whoever lent memory gets it back."""

    @property
    def where(self) -> Where:
        """Where it is on its way to a result."""
        if self.begun > 1:
            return "infer"
        return "decode" if self.pixels is None else "queue"

    def begin(self) -> float:
        """Ends a stretch of waiting, adds it to ``queue_s``, and returns the present."""
        self.begun += 1
        now = time.perf_counter()
        self.queue_s += now - self.waiting_since
        return now
