"""POST /v2/models/{name}[/versions/{version}]/infer: tensors in, tensors out, through the batchers of all routes."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from starlette.types import Receive, Scope, Send

from serve.admission import Admission, Places
from serve.denoise import Denoise
from serve.errors import BadTensor, RequestError, TooLarge, internal_error, quoted
from serve.exchange import Exchange, Exchanges
from serve.foreign.model import ForeignModel
from serve.models.groups import Chosen, Groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.oip.compression import coding_of, compressed, decompressed, preferred_coding
from serve.oip.foreign import IN_THREAD_BYTES, TensorRunner, Turn, raw_tensor
from serve.oip.messages import InferRequest, WantedOutput, encode_answer, header_length, parse_request
from serve.oip.models import input_name, input_row, output_name, output_type
from serve.oip.restore import PictureRunner
from serve.oip.rows import Row, RowRunner, stacked
from serve.oip.stats import Statistics
from serve.oip.tensors import BYTES, Array, Tensor
from serve.pipeline import DecodeStage
from serve.settings import Settings
from serve.tasks import ServedTask
from serve.urgency import LONGEST_S, Priority
from serve.web.asgi import Body, ClientGone, header, header_list, send_bytes
from serve.web.doorway import NOTES
from serve.web.hang_up import Client
from serve.web.parameters import parse_variant

logger = logging.getLogger(__name__)

INFER = "/v2/models/{name}/infer"
# JSON of this size takes milliseconds to parse and many times its size in memory: one at a time, off the event loop.
_PARSE_IN_THREAD_BYTES = 128 << 10


class Infer:
    """Reads, runs, answers. Whatever goes wrong is said in the protocol's one-string errors."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        groups: Groups,
        admission: Admission,
        decoding: DecodeStage,
        denoise: Denoise,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._groups = groups
        self._admission = admission
        self._exchanges = Exchanges(settings, repository, admission, metrics)
        self._foreign = Places(settings.max_in_flight, "requests")
        self._places: dict[ServedTask, Places] = {
            "classification": admission,
            "denoising": denoise.pictures,
            "video-denoising": denoise.pictures,
            "tensors": self._foreign,
        }
        self._metrics = metrics
        self.statistics = Statistics()
        self._rows = RowRunner(decoding, metrics)
        self._tensors = TensorRunner(self._rows, settings.max_body_bytes)
        self._restore = PictureRunner(settings, denoise, metrics, self.statistics)
        self._parsing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[NOTES]["route"] = INFER
        await self._exchanges.serve(scope, receive, send, self._answer)

    async def _answer(self, exchange: Exchange) -> None:
        self._exchanges.check_ready()
        scope = exchange.scope
        parameters = scope["path_params"]
        variant = parse_variant(scope, {})
        chosen = self._groups.find(parameters["name"], parameters.get("version"), variant, self._places_for)
        scope[NOTES].update(chosen.notes)
        with chosen.model.in_use(), self._groups.told_of_refusals(chosen):
            await self._answer_with(chosen, exchange)

    def _places_for(self, task: ServedTask) -> Places:
        return self._places[task]

    async def _answer_with(self, chosen: Chosen, exchange: Exchange) -> None:
        model = chosen.model
        try:
            with _told_in_its_words():
                answer, json_size, rows = await self._infer(exchange, chosen)
        except (RequestError, asyncio.CancelledError):  # which ends a request whose time is over
            self.statistics.failed(model, time.perf_counter() - exchange.started)
            raise
        encode_started = time.perf_counter()
        answer, coding = await compressed(answer, preferred_coding(header_list(exchange.scope, b"accept-encoding")))
        headers = {"Content-Type": "application/json", "Vary": "Accept-Encoding", **coding, **chosen.headers}
        if json_size is not None:
            headers["Content-Type"] = "application/octet-stream"
            headers["Inference-Header-Content-Length"] = str(json_size)
        now = time.perf_counter()
        self.statistics.succeeded(model, now - exchange.started, rows, now - encode_started)
        await send_bytes(exchange.send, answer, headers, self._settings.send_timeout_s)

    async def _infer(self, exchange: Exchange, chosen: Chosen) -> tuple[bytes, int | None, int]:
        """The body of the answer, how much of it is JSON if not all, and the number of rows."""
        model, scope, body = chosen.model, exchange.scope, exchange.body
        coding = coding_of(header(scope, b"content-encoding"))
        places = (self._places_for(model.task), *self._admission.of(model.name))
        for one in places:  # before the body is read: shedding load must be cheap
            one.check()
        read_started = time.perf_counter()
        raw = await body.read()
        if coding is not None:
            raw = await self._decompressed(raw, body, coding)
        self._metrics.stage("read", time.perf_counter() - read_started, model.name)
        length = header_length(header(scope, b"inference-header-content-length"), len(raw))
        request = _raw_request(model, raw) if length == 0 else await self._parse(raw, length)
        if request.timeout_us:
            exchange.deadline.within(min(request.timeout_us / 1e6, LONGEST_S))
        if isinstance(model, ForeignModel):
            return await self._infer_foreign(model, request, exchange)
        wanted = _wanted(request, model)
        batch = _batch(request.inputs, model, self._settings.max_files)
        scope[NOTES].update(images=len(batch), bytes=len(raw))
        with self._groups.answering(chosen, len(batch)) as answering:
            values = await self._run(model, batch, places, exchange.client, _priority(request, exchange))
            answering.end(answered=True)
        outputs = [(_output(model, values, output), output.binary) for output in wanted]
        return *encode_answer(model.name, model.version, request.request_id, outputs), len(batch)

    async def _infer_foreign(
        self, model: ForeignModel, request: InferRequest, exchange: Exchange
    ) -> tuple[bytes, int | None, int]:
        notes, body = exchange.scope[NOTES], exchange.body
        notes.update(bytes=body.size)
        places = (self._foreign, *self._admission.of(model.name))
        turn = Turn(places, exchange.client, _priority(request, exchange))
        ran = await self._tensors.run(model, request, turn, lambda size: self._take(body, size))
        self.statistics.ran_whole(model, ran.ticket, ran.rows, ran.shared)
        notes.update(images=ran.rows)
        if ran.bytes <= IN_THREAD_BYTES:
            return *encode_answer(model.name, model.version, request.request_id, ran.outputs), ran.rows
        encoded = await asyncio.to_thread(encode_answer, model.name, model.version, request.request_id, ran.outputs)
        return *encoded, ran.rows

    def _take(self, body: Body, size: int) -> None:
        self._admission.buffer(size)
        body.size += size  # what the body gives back in the end

    async def _decompressed(self, raw: bytes, body: Body, coding: Any) -> bytes:
        return await decompressed(raw, coding, self._settings.max_body_bytes, lambda size: self._take(body, size))

    async def _parse(self, raw: bytes, length: int | None) -> InferRequest:
        if (len(raw) if length is None else length) <= _PARSE_IN_THREAD_BYTES:
            return parse_request(raw, length)
        await self._parsing.acquire()
        parsed = asyncio.get_running_loop().run_in_executor(None, parse_request, raw, length)

        def end(future: "asyncio.Future[InferRequest]") -> None:
            self._parsing.release()
            if not future.cancelled():
                future.exception()  # of which asyncio would complain where nobody waits any more

        parsed.add_done_callback(end)
        return await asyncio.shield(parsed)  # a thread goes on whoever gave up, and so does its turn

    async def _run(
        self,
        model: ServedModel,
        batch: Array | Sequence[Row],
        places: Sequence[Places],
        client: Client,
        priority: Priority,
    ) -> Array:
        if model.task == "denoising":
            assert isinstance(batch, np.ndarray), "a denoiser takes no encoded pictures"
            return await self._restore.run(model, batch, client, priority)
        tickets = await self._rows.run(model, list(batch), places, client, priority)
        self.statistics.ran(model, tickets)
        return stacked(tickets)


@contextmanager
def _told_in_its_words() -> Iterator[None]:
    """Of our own mistakes the client is told in its protocol's words, and the log in full."""
    try:
        yield
    except (RequestError, ClientGone):
        raise
    except Exception as error:
        logger.error("inference failed", exc_info=error)
        raise internal_error() from None


def _priority(request: InferRequest, exchange: Exchange) -> Priority:
    """Triton's, of which all from 3 are low here, or that of the header."""
    return Priority(min(request.priority, Priority.LOW)) if request.priority else exchange.priority


def _raw_request(model: ServedModel, raw: bytes) -> InferRequest:
    """A body without JSON is the one element of a model's input (Triton's raw binary request): here, a picture."""
    if isinstance(model, ForeignModel):
        return InferRequest(None, (raw_tensor(model, raw),), None, True)
    if model.task != "classification":
        raise BadTensor(
            "bad_request",
            f"the body has no JSON, and model {quoted(model.name)} takes pixels whose shape it must know",
            "send the JSON, and its length as Inference-Header-Content-Length",
        )
    return InferRequest(None, (Tensor(input_name(model), BYTES, (1,), [raw]),), None, True)


def _wanted(request: InferRequest, model: ServedModel) -> tuple[WantedOutput, ...]:
    """The outputs to answer with. Raises BadTensor if one is none of the model's, or has no classes."""
    name = output_name(model)
    for output in request.outputs or ():
        if output.name != name:
            raise BadTensor(
                "unknown_output",
                f"unexpected inference output {quoted(output.name)} for model {quoted(model.name)}",
                f"ask for {quoted(name)}, or leave outputs out",
            )
        if output.classes and model.task != "classification":
            raise BadTensor(
                "no_classes", f"model {quoted(model.name)} has no classes", "leave classification out of its outputs"
            )
    return request.outputs or (WantedOutput(name, request.binary),)


def _batch(inputs: Sequence[Tensor], model: ServedModel, max_rows: int) -> Array | Sequence[Row]:
    """The rows of a request's one input. Raises BadTensor or TooLarge unless the model takes them."""
    name = input_name(model)
    for tensor in inputs:
        if tensor.name != name:
            raise BadTensor(
                "unknown_input",
                f"unexpected inference input {quoted(tensor.name)} for model {quoted(model.name)}",
                f"its one input is {quoted(name)}",
            )
    (tensor,) = inputs
    pictures = tensor.datatype == BYTES and model.task == "classification"
    row = input_row(model)
    if not (_is_list(tensor) if pictures else tensor.datatype == "UINT8" and _fits(tensor.shape, row)):
        takes = " or BYTES [-1], pictures as files" if model.task == "classification" else ""
        raise BadTensor(
            "bad_shape",
            f"input {quoted(name)} is {tensor.datatype} {list(tensor.shape)}, model {quoted(model.name)} takes "
            f"UINT8 {[-1, *row]}{takes}, where -1 is any size from 1",
            "see the model's metadata",
        )
    if tensor.shape[0] > max_rows:
        raise TooLarge(
            "too_many_files",
            f"{tensor.shape[0]} rows came in one request, the limit is {max_rows}",
            "send them in several requests",
        )
    return tensor.values


def _is_list(tensor: Tensor) -> bool:
    """Whether it is [n], or [n, 1] as models with a batch axis have it."""
    return tensor.shape[0] > 0 and tensor.shape[1:] in ((), (1,))


def _fits(shape: tuple[int, ...], row: tuple[int, ...]) -> bool:
    return len(shape) == len(row) + 1 and all(
        size > 0 if wanted == -1 else size == wanted for size, wanted in zip(shape, (-1, *row), strict=True)
    )


def _output(model: ServedModel, values: Array, wanted: WantedOutput) -> Tensor:
    if not wanted.classes:
        return Tensor(wanted.name, output_type(model), values.shape, values)
    count = min(wanted.classes, values.shape[1])
    best = np.argsort(-values, axis=1, kind="stable")[:, :count]
    strings = [
        _class_text(model, float(row[index]), index)
        for row, indices in zip(values, best.tolist(), strict=True)
        for index in indices
    ]
    return Tensor(wanted.name, BYTES, (len(values), count), strings)


def _class_text(model: ServedModel, value: float, index: int) -> bytes:
    """As Triton's classification extension has it: the value, the class, and its label if there is one."""
    label = f":{model.labels[index]}" if model.labels else ""
    return f"{value:f}:{index}{label}".encode()
