"""POST or PUT /v1/classify: the hot route, a plain ASGI endpoint without validation layers or a task per request."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson
from starlette.types import Receive, Scope, Send

from serve.admission import Admission, taken
from serve.engines.engine import Rows
from serve.intake import Intake, Order
from serve.models.groups import Groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.pipeline import DecodeStage, Job
from serve.settings import Settings
from serve.ticket import Ticket
from serve.web.asgi import ClientGone, send_json
from serve.web.doorway import NOTES
from serve.web.parameters import parse_top_k
from serve.web.uploads import Picture, Wanted

DEFAULT_TOP_K = 5


class Classify:
    """Decodes, predicts, answers."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        groups: Groups,
        admission: Admission,
        decoding: DecodeStage,
        metrics: Metrics,
    ) -> None:
        wanted = Wanted(("model", "variant", "top_k"), settings.max_files)
        self.intake = Intake(settings, repository, groups, admission, admission, metrics, "classification", wanted)
        self._admission = admission
        self._decoding = decoding
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.intake.serve(scope, receive, send, self._answer)

    async def _answer(self, order: Order) -> None:
        model = order.model
        top_k = parse_top_k(order.parameters.get("top_k"), DEFAULT_TOP_K)
        tickets = await self._predict(order, top_k)
        answered = zip(order.pictures, tickets, strict=True)
        results = [_result(model, picture, ticket) for picture, ticket in answered]
        if all(ticket.error for ticket in tickets) and (error := tickets[0].error):
            raise error
        answer = {
            "id": order.request_id,
            "model": {"name": model.name, "version": model.version},
            **({} if order.chosen.group is None else {"group": order.chosen.group.name}),
            "results": results,
            "timing_ms": {"read": _ms(order.read_s), "total": _ms(time.perf_counter() - order.started)},
        }
        await send_json(order.send, 200, orjson.dumps(answer), order.chosen.headers)

    async def _predict(self, order: Order, top_k: int) -> list[Ticket]:
        """Sends the pictures through decoding and batching; all tickets come back done."""
        model, pictures = order.model, order.pictures
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        left = len(pictures)

        def on_done(ticket: Ticket) -> None:
            nonlocal left
            left -= 1
            if not left and not finished.done():
                finished.set_result(None)

        with taken(len(pictures), self._admission, *self._admission.of(model.name)) as answered:
            tickets = [Ticket(on_done, order.priority) for _ in pictures]
            try:
                for place, (picture, ticket) in enumerate(zip(pictures, tickets, strict=True)):
                    ticket.digest = partial(likeliest, top_k=top_k)
                    job = Job(ticket, picture.data, picture.name, model.preprocessing, model.batcher, place)
                    self._decoding.submit(job)
                await order.client.unless_gone(finished)
            except (ClientGone, asyncio.CancelledError):
                for ticket in tickets:
                    ticket.abandon()
                self._metrics.gave_up(tickets)
                raise
            answered()
        order.scope[NOTES]["batch"] = max(ticket.batch_size for ticket in tickets)
        self._observe(model.name, tickets)
        return tickets

    def _observe(self, model: str, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._metrics.stage("decode", ticket.decode_s, model)
            if ticket.error is None:
                self._metrics.stage("queue", ticket.queue_s, model)
                self._metrics.stage("infer", ticket.infer_s, model)


def _result(model: ServedModel, picture: Picture, ticket: Ticket) -> dict[str, Any]:
    if ticket.error is not None or ticket.result is None:
        return {"file": picture.name, "error": ticket.error.as_dict() if ticket.error else None}
    return {
        "file": picture.name,
        "predictions": _predictions(ticket.result, model.labels),
        "timing_ms": {"decode": _ms(ticket.decode_s), "queue": _ms(ticket.queue_s), "infer": _ms(ticket.infer_s)},
        "batch_size": ticket.batch_size,
    }


def likeliest(probabilities: Rows, top_k: int) -> list[tuple[int, float]]:
    """The ``top_k`` likeliest of (classes,), best first, with their probabilities; all of them if there are fewer.

    Of those that are equally likely the first come first.
    """
    likely = np.arange(len(probabilities))
    if top_k < len(probabilities):  # sorting a thousand classes takes four times as long as finding the likely ones
        [likely] = np.nonzero(probabilities >= np.partition(probabilities, -top_k)[-top_k])
    best = likely[np.argsort(-probabilities[likely], kind="stable")[:top_k]]
    return list(zip(best.tolist(), probabilities[best].tolist(), strict=True))


def _predictions(best: list[tuple[int, float]], labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"label": labels[index] if labels else str(index), "index": index, "probability": round(value, 6)}
        for index, value in best
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
