"""One run of an engine for the tickets of a batch: all are answered by it, and what fails it fails alone."""

import logging
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from serve.engines.engine import Engine, Rows, RowsEngine
from serve.errors import EngineFailed
from serve.ticket import Ticket

logger = logging.getLogger(__name__)

Run = Callable[[list[Ticket]], Rows]
"""Gives a row for each ticket, in their order."""


def answer(batch: list[Ticket], run: Run, name: str) -> None:
    """Runs a batch of the model ``name``, and gives each ticket its row or its error."""
    for ticket in batch:
        started = ticket.begin()
    try:
        rows = run(batch)
    except Exception as error:  # an engine's errors have no common base; the batch is tried one by one
        _isolate(batch, run, name, error)
        return
    infer_s = time.perf_counter() - started
    for ticket, row in zip(batch, rows, strict=True):
        ticket.answer(row)
        ticket.infer_s, ticket.batch_size = infer_s, len(batch)


def rows_of(batch: list[Ticket], engine: Engine, *, takes_rows: bool) -> Rows:
    """Runs the pixels of a batch; ``takes_rows`` says that the engine is a RowsEngine.

    Raises:
        RuntimeError: what came out is not a row of finite numbers for each.
        Exception: whatever the engine fails with.
    """
    pixels = [ticket.pixels for ticket in batch if ticket.pixels is not None]
    if takes_rows:
        rows = cast(RowsEngine, engine).run_rows(pixels)
    else:
        stacked = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
        rows = engine.run(np.ascontiguousarray(stacked))
    if rows.ndim < 2 or len(rows) != len(batch):
        raise RuntimeError(f"engine returned shape {rows.shape} for a batch of {len(batch)}")
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise RuntimeError("engine returned values that are not finite")
    return rows


def _isolate(batch: list[Ticket], run: Run, name: str, error: Exception) -> None:
    """Runs a failed batch again one by one, so that only the picture at fault fails."""
    if not all(ticket.abandoned for ticket in batch):  # for whom it may have been broken off
        logger.error("model %s failed on a batch of %d", name, len(batch), exc_info=error)
    for ticket in batch:
        started = time.perf_counter()
        try:
            if len(batch) == 1 or ticket.abandoned:
                raise error
            ticket.answer(run([ticket])[0])
            ticket.infer_s, ticket.batch_size = time.perf_counter() - started, 1
        except Exception:  # this is the picture that the engine fails on, and it fails alone
            ticket.error = EngineFailed(
                "engine_failed",
                f"model {name!r} failed on this picture",
                "the server's log has the cause; other pictures are not affected",
            )
