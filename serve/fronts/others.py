"""What a front asks the other processes of its server, by way of the supervisor."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count

import orjson

from serve.errors import NotReady
from serve.fronts.control import NUMBER, Control, Kind, Message
from serve.fronts.metrics import merged
from serve.fronts.orders import RemoteControl
from serve.monitoring.live import Part
from serve.together import Together
from skipvit.manifest import Task

_SCRAPE_WITHIN_S = 5.0
_ORDER_WITHIN_S = 600.0  # a model may take minutes to open


class Others:
    """Questions to the other processes, and their answers. On the event loop only.

    One about metrics and one about the status is under way at a time, for all clients that ask: a few hundred at once
    would have this process and the supervisor wait for each other to read.
    """

    def __init__(self, control: Control, groups: Mapping[str, Task]) -> None:
        self.groups = groups
        self._control = control
        self._numbers = count()
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self.models = RemoteControl(self._order)
        self._metrics, self._parts = Together[bytes](), Together[Sequence[Part]]()

    async def metrics(self, own: Callable[[], bytes]) -> bytes:
        """The metrics of all processes, ``own`` among them.

        Raises:
            NotReady: they cannot be had; some alone would look like a reset.
        """
        return await self._metrics(partial(self._ask_for_metrics, own))

    async def parts(self, own: Callable[[], Part]) -> Sequence[Part]:
        """What all processes say for the status. Raises NotReady if it cannot be had: ours alone would mislead."""
        return await self._parts(partial(self._ask_for_parts, own))

    async def _ask_for_metrics(self, render: Callable[[], bytes]) -> bytes:
        own = render()
        try:
            answer = await self._ask(Kind.SCRAPE, own, _SCRAPE_WITHIN_S)
        except (OSError, TimeoutError):
            raise NotReady("the other processes of this server did not give their metrics", "scrape again") from None
        return merged([own, *(text.encode() for text in orjson.loads(answer))])

    async def _ask_for_parts(self, part: Callable[[], Part]) -> Sequence[Part]:
        own = part()
        try:
            answer = await self._ask(Kind.LOOK, own.model_dump_json().encode(), _SCRAPE_WITHIN_S)
        except (OSError, TimeoutError):
            raise NotReady("the other processes of this server did not say how they are", "ask again") from None
        return [own, *(Part.model_validate_json(text) for text in orjson.loads(answer))]

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
