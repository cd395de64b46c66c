"""POST or PUT /v1/classify: the hot route, a plain ASGI endpoint without validation layers or a task per request."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson
from starlette.types import Receive, Scope, Send

from serve.admission import Admission
from serve.asgi import Body, ClientGone, header, send_error, send_json
from serve.doorway import NOTES, REQUEST_ID
from serve.engine import Rows
from serve.errors import BadField, NotReady, RequestError, WrongContentType, quoted
from serve.metrics import Metrics
from serve.pipeline import DecodeStage, Job
from serve.repository import Repository, ServedModel
from serve.settings import Settings
from serve.ticket import Ticket
from serve.uploads import Picture, Upload, check_parameter_names, parse_model, parse_top_k, parse_upload

DEFAULT_TOP_K = 5
# A form or JSON body of this size takes milliseconds to parse, which the event loop should not spend.
_PARSE_IN_THREAD_BYTES = 256 << 10
# Most answers are ready by then; only a request that really waits pays for a task that watches its connection.
_WATCH_AFTER_S = 0.02

_NOT_READY = {
    "new": "the server is starting",
    "warming": "the models are warming up",
    "failed": "a model is out of service",
    "closed": "the server is shutting down",
}


class Classify:
    """Reads, decodes, predicts, answers."""

    def __init__(
        self, settings: Settings, repository: Repository, admission: Admission, decoding: DecodeStage, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._admission = admission
        self._decoding = decoding
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body = Body(scope, receive, self._admission, self._settings.max_body_bytes, self._settings.body_timeout_s)
        try:
            answer = await self._answer(scope, receive, body, started)
        except RequestError as error:
            if error.status in (413, 429, 503):
                self._metrics.rejected(error.code)
            await send_error(send, error, scope[REQUEST_ID], body)
        else:
            await send_json(send, 200, answer)
        finally:
            body.release()
            self._metrics.stage("total", time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, body: Body, started: float) -> bytes:
        query = dict(_query(scope))
        state = self._repository.state
        if state in _NOT_READY:
            raise NotReady(_NOT_READY[state])
        if (encoding := header(scope, b"content-encoding").strip().lower()) not in ("", "identity"):
            raise WrongContentType(
                "wrong_content_encoding",
                f"the body is encoded as {quoted(encoding)}",
                "send it as it is: pictures are compressed already",
            )
        self._admission.check()  # before the body is read: shedding load must be cheap
        raw = await body.read()
        read_s = time.perf_counter() - started
        self._metrics.stage("read", read_s)
        upload = await self._parse(header(scope, b"content-type"), raw)
        parameters = {**query, **upload.parameters}
        model = self._repository.get(parse_model(parameters.get("model")), "classification")
        top_k = parse_top_k(parameters.get("top_k"), DEFAULT_TOP_K)
        scope[NOTES].update(model=model.name, version=model.version, images=len(upload.pictures), bytes=len(raw))
        tickets = await self._predict(model, upload.pictures, receive)
        answered = zip(upload.pictures, tickets, strict=True)
        results = [_result(model, picture, ticket, top_k) for picture, ticket in answered]
        if all(ticket.error for ticket in tickets) and (error := tickets[0].error):
            raise error
        return orjson.dumps(
            {
                "id": scope[REQUEST_ID],
                "model": {"name": model.name, "version": model.version},
                "results": results,
                "timing_ms": {"read": _ms(read_s), "total": _ms(time.perf_counter() - started)},
            }
        )

    async def _parse(self, content_type: str, raw: bytes) -> Upload:
        max_files = self._settings.max_files
        if len(raw) > _PARSE_IN_THREAD_BYTES and not content_type.startswith("image/"):
            return await asyncio.to_thread(parse_upload, content_type, raw, max_files)
        return parse_upload(content_type, raw, max_files)

    async def _predict(self, model: ServedModel, pictures: Sequence[Picture], receive: Receive) -> list[Ticket]:
        """Sends the pictures through decoding and batching; all tickets come back done."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        left = len(pictures)

        def on_done(ticket: Ticket) -> None:
            nonlocal left
            left -= 1
            if not left and not finished.done():
                finished.set_result(None)

        self._admission.admit(len(pictures))
        tickets = [Ticket(on_done) for _ in pictures]
        answered = 0
        try:
            for picture, ticket in zip(pictures, tickets, strict=True):
                job = Job(ticket, picture.data, picture.name, model.preprocessing, model.batcher)
                self._decoding.submit(job)
            await _unless_gone(finished, receive, loop)
            answered = len(tickets)
        except (ClientGone, asyncio.CancelledError):
            for ticket in tickets:
                ticket.abandoned = True
            self._metrics.cancelled(left)
            raise
        finally:
            self._admission.release(len(tickets), answered)
        self._observe(tickets)
        return tickets

    def _observe(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._metrics.stage("decode", ticket.decode_s)
            if ticket.error is None:
                self._metrics.stage("queue", ticket.queue_s)
                self._metrics.stage("infer", ticket.infer_s)


async def _unless_gone(finished: "asyncio.Future[None]", receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
    """Waits for ``finished``, or raises ClientGone as soon as the client hangs up."""
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not finished.done():
            finished.set_exception(ClientGone())

    def start_watching() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(_WATCH_AFTER_S, start_watching)
    try:
        await finished
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


def _query(scope: Scope) -> list[tuple[str, str]]:
    raw = scope["query_string"]
    if not raw:
        return []
    try:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise BadField("bad_query", "the query has over 16 fields", "send model and top_k only") from None
    check_parameter_names(name for name, _ in pairs)
    return pairs


def _result(model: ServedModel, picture: Picture, ticket: Ticket, top_k: int) -> dict[str, Any]:
    if ticket.error is not None or ticket.result is None:
        return {"file": picture.name, "error": ticket.error.as_dict() if ticket.error else None}
    return {
        "file": picture.name,
        "predictions": top_predictions(ticket.result, model.labels, top_k),
        "timing_ms": {"decode": _ms(ticket.decode_s), "queue": _ms(ticket.queue_s), "infer": _ms(ticket.infer_s)},
        "batch_size": ticket.batch_size,
    }


def top_predictions(probabilities: Rows, labels: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The ``top_k`` likeliest classes, best first; all of them if there are fewer."""
    best = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    values = probabilities[best].tolist()
    return [
        {"label": labels[index] if labels else str(index), "index": index, "probability": round(value, 6)}
        for index, value in zip(best, values, strict=True)
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
