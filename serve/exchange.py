"""What every inference route does around its own work: deadline, priority, bounded body, and errors as answers."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from serve.admission import Admission
from serve.errors import BadField, BadTensor, DeadlineExceeded, NotReady, RequestError, is_oip
from serve.models.repository import Repository
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from serve.urgency import PRIORITY, TIMEOUT, Deadline, Priority, parse_priority, parse_timeout
from serve.web.asgi import Body, optional_header, send_error
from serve.web.doorway import REQUEST_ID
from serve.web.hang_up import Client

_TIMEOUT, _PRIORITY = TIMEOUT.lower().encode(), PRIORITY.lower().encode()
_REJECTIONS = (413, 429, 503)


@dataclass(slots=True)
class Exchange:
    """One request and the way back to its client. ``started`` is of time.perf_counter, at its first byte."""

    scope: Scope
    client: Client
    send: Send
    body: Body
    deadline: Deadline
    priority: Priority
    started: float


class Exchanges:
    """Conducts the requests of a route."""

    def __init__(self, settings: Settings, repository: Repository, admission: Admission, metrics: Metrics) -> None:
        self._settings = settings
        self._repository = repository
        self._admission = admission
        self._metrics = metrics

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, answer: Callable[[Exchange], Awaitable[None]]
    ) -> None:
        """Conducts one; ``answer`` sends the response, or raises a RequestError before it sent anything.

        It is cancelled when the request's time is over before its answer has begun.
        """
        started = time.perf_counter()
        body = Body(scope, receive, self._admission, self._settings.max_body_bytes, self._settings.body_timeout_s)
        try:
            wrong = BadTensor if is_oip(scope["path"]) else BadField
            deadline = Deadline(
                parse_timeout(optional_header(scope, _TIMEOUT), wrong), self._settings.request_timeout_s
            )
            priority = parse_priority(optional_header(scope, _PRIORITY), wrong)

            async def send_in_time(message: Message) -> None:
                if message["type"] == "http.response.start":
                    deadline.met()
                await send(message)

            async with deadline:
                await answer(Exchange(scope, Client(scope, receive), send_in_time, body, deadline, priority, started))
        except RequestError as error:
            if error.status in _REJECTIONS:
                self._metrics.rejected(error.code)
            if isinstance(error, DeadlineExceeded) and not body.complete:
                error.headers["Connection"] = "close"  # the rest of the body may never come
            await send_error(send, error, scope[REQUEST_ID], scope["path"], body)
        finally:
            body.release()

    @property
    def ready(self) -> bool:
        """Whether the server answers."""
        return self._repository.refusal is None

    def check_ready(self) -> None:
        """Raises NotReady unless the server answers."""
        if (refusal := self._repository.refusal) is not None:
            raise NotReady(refusal)
