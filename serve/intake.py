"""The way in that all inference routes share: is the server ready, is there room, read the body, find its parts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from serve.admission import Admission, Places
from serve.errors import BadField, RequestError, WrongContentType, quoted
from serve.exchange import Exchange, Exchanges
from serve.models.groups import Chosen, Groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from serve.urgency import Priority
from serve.web.asgi import Body, header, send_error
from serve.web.doorway import NOTES, REQUEST_ID
from serve.web.hang_up import Client
from serve.web.parameters import parse_name, parse_query, parse_variant
from serve.web.uploads import Picture, Upload, Wanted, parse_upload
from skipvit.manifest import Task

# A form or JSON body of this size takes milliseconds to parse, which the event loop should not spend.
_PARSE_IN_THREAD_BYTES = 256 << 10


@dataclass(slots=True)
class Order:
    """A request that was read and parsed: for which model, what came, and how it can be answered."""

    scope: Scope
    client: Client
    send: Send
    body: Body
    chosen: Chosen
    pictures: list[Picture]
    parameters: dict[str, Any]
    priority: Priority
    started: float
    read_s: float

    @property
    def model(self) -> ServedModel:
        """The model that answers."""
        return self.chosen.model

    @property
    def request_id(self) -> str:
        request_id: str = self.scope[REQUEST_ID]
        return request_id


class Intake:
    """Turns requests into orders, and whatever is wrong with one into its answer.

    ``places`` are those of the route: requests of one route never use up another's, so that a hundred pictures that
    take seconds each do not keep out one that takes a millisecond. ``admission`` counts the bytes of all bodies.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        groups: Groups,
        admission: Admission,
        places: Places,
        metrics: Metrics,
        task: Task,
        wanted: Wanted,
    ) -> None:
        self._repository = repository
        self._groups = groups
        self._exchanges = Exchanges(settings, repository, admission, metrics)
        self._places = places
        self._metrics = metrics
        self._task: Task = task
        self._wanted = wanted

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, answer: Callable[[Order], Awaitable[None]]
    ) -> None:
        """Takes one request; ``answer`` sends the response, or raises a RequestError before it sent anything.

        A full server says so before it looks at anything: what refusals take, the pictures in work must do without.
        """
        if (refusal := self.refusal()) is not None:
            self.turned_away(refusal)
            await send_error(send, refusal, scope[REQUEST_ID], scope["path"])
            return

        async def conduct(exchange: Exchange) -> None:
            with self._groups.told_of_refusals(self._task):
                order = await self._order(exchange)
            with (
                order.model.in_use(),
                self._groups.told_of_refusals(order.chosen),
                self._groups.answering(order.chosen, len(order.pictures)) as answering,
            ):
                order.send = answering.watch(order.send)
                await answer(order)

        await self._exchanges.serve(scope, receive, send, conduct)

    def refusal(self) -> RequestError | None:
        """What any request must be told now if there is no place for it, or None."""
        return self._places.refusal() if self._exchanges.ready else None

    def turned_away(self, refusal: RequestError) -> None:
        """Counts a request that is told so."""
        self._groups.press(self._task)
        self._metrics.rejected(refusal.code)

    async def _order(self, exchange: Exchange) -> Order:
        scope = exchange.scope
        query = parse_query(scope["query_string"], self._wanted.parameters)
        self._exchanges.check_ready()
        if (encoding := header(scope, b"content-encoding").strip().lower()) not in ("", "identity"):
            raise WrongContentType(
                "wrong_content_encoding",
                f"the body is encoded as {quoted(encoding)}",
                "send it as it is: pictures are compressed already",
            )
        raw = await exchange.body.read()
        read_s = time.perf_counter() - exchange.started
        upload = await self._parse(header(scope, b"content-type"), raw)
        parameters = _merged(query, upload.parameters)
        wanted = parse_name("model", parameters.get("model"))
        chosen = self._groups.get(wanted, parse_variant(scope, parameters), self._task, self._places)
        self._metrics.stage("read", read_s, chosen.model.name)
        scope[NOTES].update(chosen.notes, images=len(upload.pictures), bytes=len(raw))
        return Order(
            scope, exchange.client, exchange.send, exchange.body, chosen, upload.pictures, parameters,
            exchange.priority, exchange.started, read_s,
        )  # fmt: skip

    async def _parse(self, content_type: str, raw: bytes) -> Upload:
        if len(raw) > _PARSE_IN_THREAD_BYTES and not content_type.startswith(f"{self._wanted.medium}/"):
            return await asyncio.to_thread(parse_upload, content_type, raw, self._wanted)
        return parse_upload(content_type, raw, self._wanted)


def _merged(query: dict[str, str], fields: dict[str, Any]) -> dict[str, Any]:
    """All parameters. One that came twice might be wrong in the place that is not looked at."""
    if not query:
        return fields
    for name in query:
        if name in fields:
            raise BadField("bad_field", f"{name} came in the URL and in the body", "send it in one of them")
    return {**query, **fields}
