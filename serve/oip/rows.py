"""Rows of an inference request through decoding and batching, beside the pictures of other routes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.admission import Places, taken
from serve.errors import RequestError
from serve.foreign.engine import TensorRequest
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.pipeline import DecodeStage, Job
from serve.ticket import Ticket
from serve.urgency import Priority
from serve.web.asgi import ClientGone
from serve.web.hang_up import Client
from skipvit.transforms import Pixels

Row = bytes | Pixels | TensorRequest


class RowRunner:
    """Runs rows that a model takes as they are: pixels of its size, or encoded pictures to be decoded first."""

    def __init__(self, decoding: DecodeStage, metrics: Metrics) -> None:
        self._decoding = decoding
        self._metrics = metrics

    async def run(
        self, model: ServedModel, rows: Sequence[Row], places: Sequence[Places], client: Client, priority: Priority
    ) -> list[Ticket]:
        """Returns the tickets of all rows, each with its result.

        Raises:
            RequestError: a row failed, which fails the request: its others are dropped.
            Overloaded: there is no room for so many.
            ClientGone: nobody waits any more.
        """
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        left = len(rows)

        def on_done(ticket: Ticket) -> None:
            nonlocal left
            left -= 1
            if (ticket.error is not None or not left) and not finished.done():
                finished.set_result(None)

        def on_done_elsewhere(ticket: Ticket) -> None:
            loop.call_soon_threadsafe(on_done, ticket)

        # Batches of a classifier are delivered on the event loop, others in the thread that ran them.
        told = on_done if model.task == "classification" else on_done_elsewhere
        with taken(len(rows), *places) as answered:
            tickets = [Ticket(told, priority) for _ in rows]
            try:
                for index, (row, ticket) in enumerate(zip(rows, tickets, strict=True)):
                    self._decoding.submit(_job(model, row, ticket, index))
                await client.unless_gone(finished)
                _raise_first(tickets)
            except BaseException as error:
                if isinstance(error, ClientGone | asyncio.CancelledError):
                    self._metrics.gave_up(tickets)
                for ticket in tickets:
                    ticket.abandon()
                raise
            answered()
        self._observe(model.name, tickets)
        return tickets

    def _observe(self, model: str, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._metrics.stage("decode", ticket.decode_s, model)
            self._metrics.stage("queue", ticket.queue_s, model)
            self._metrics.stage("infer", ticket.infer_s, model)


def _job(model: ServedModel, row: Row, ticket: Ticket, index: int) -> Job:
    if isinstance(row, bytes):
        return Job(ticket, row, f"row {index}", model.preprocessing, model.batcher, index)
    ticket.pixels = row
    return Job(ticket, b"", None, None, model.batcher, index)


def _raise_first(tickets: Sequence[Ticket]) -> None:
    failed: RequestError | None = next((ticket.error for ticket in tickets if ticket.error), None)
    if failed is not None:
        raise failed


def stacked(tickets: Sequence[Ticket]) -> npt.NDArray[Any]:
    """The results of all tickets as one array, rows first."""
    return np.stack([ticket.result for ticket in tickets if ticket.result is not None])
