"""What a front asks the other processes of its server, by way of the supervisor."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count

import orjson

from serve.errors import NotReady
from serve.fronts.control import NUMBER, Control, Kind, Message
from serve.fronts.metrics import merged
from serve.fronts.orders import RemoteControl
from serve.monitoring.live import Part
from skipvit.manifest import Task

_SCRAPE_WITHIN_S = 5.0
_ORDER_WITHIN_S = 600.0  # a model may take minutes to open


class Others:
    """Questions to the other processes, and their answers. On the event loop only."""

    def __init__(self, control: Control, groups: Mapping[str, Task]) -> None:
        self.groups = groups
        self._control = control
        self._numbers = count()
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self.models = RemoteControl(self._order)

    async def metrics(self, own: bytes) -> bytes:
        """The metrics of all processes. Raises NotReady if they cannot be had: some alone would look like a reset."""
        try:
            answer = await self._ask(Kind.SCRAPE, own, _SCRAPE_WITHIN_S)
        except (OSError, TimeoutError):
            raise NotReady("the other processes of this server did not give their metrics", "scrape again") from None
        return merged([own, *(text.encode() for text in orjson.loads(answer))])

    async def parts(self, own: Part) -> Sequence[Part]:
        """What the other processes add to the status. Raises NotReady if it cannot be had: ours alone would mislead."""
        try:
            answer = await self._ask(Kind.LOOK, own.model_dump_json().encode(), _SCRAPE_WITHIN_S)
        except (OSError, TimeoutError):
            raise NotReady("the other processes of this server did not say how they are", "ask again") from None
        return [Part.model_validate_json(text) for text in orjson.loads(answer)]

    async def _order(self, order: bytes) -> bytes:
        try:
            return await self._ask(Kind.ORDER, order, _ORDER_WITHIN_S)
        except (OSError, TimeoutError):
            raise NotReady(
                "the process of the engines did not answer", "POST /v2/repository/index says what is served"
            ) from None

    async def _ask(self, kind: Kind, body: bytes, within_s: float) -> bytes:
        number = next(self._numbers) % (1 << 32)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            self._control.send(kind, NUMBER.pack(number) + body)
            async with asyncio.timeout(within_s):
                return await answer
        finally:
            del self._open[number]

    def hear(self, message: Message) -> None:
        """Takes an answer; one that nobody waits for any more is passed over."""
        answer = self._open.get(NUMBER.unpack_from(message.body)[0])
        if answer is not None and not answer.done():
            answer.set_result(message.body[NUMBER.size :])
