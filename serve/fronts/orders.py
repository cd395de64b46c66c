"""Orders of clients, to load, unload or list models, on their way from a front to the engine's process and back."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson

from serve.errors import NotReady, RequestError, internal_error
from serve.fronts.wire import error_of, error_text
from serve.models.index import IndexRow
from serve.models.loading import LoadFailed
from serve.oip.repository import Control

logger = logging.getLogger(__name__)


async def carry_out(control: Control, order: bytes, everywhere: Callable[[], Awaitable[bool]]) -> bytes:
    """Does what an order says, and returns what came of it; ``everywhere`` waits until all fronts have the change."""
    try:
        return orjson.dumps({"result": await _result(control, orjson.loads(order), everywhere)})
    except LoadFailed as error:
        # Of several versions some may have been taken.
        await everywhere()
        return orjson.dumps({"failed": str(error)})
    except RequestError as error:
        return orjson.dumps({"error": error_text(error).decode()})
    except Exception as error:  # ours; whoever waits must be told
        logger.error("an order failed", exc_info=error)
        return orjson.dumps({"error": error_text(internal_error()).decode()})


async def _result(control: Control, order: dict[str, Any], everywhere: Callable[[], Awaitable[bool]]) -> Any:
    if order["do"] == "index":
        return [tuple(row) for row in await control.index()]
    result = None
    if order["do"] == "load":
        await control.load(order["name"], order["override"])
    else:
        result = await control.unload(order["name"])
    if not await everywhere():
        raise NotReady("it is done, and not all processes of this server have taken it yet", "look again later")
    return result


class Ask(Protocol):
    """Sends an order, and waits for what came of it. Raises NotReady if that cannot be had."""

    async def __call__(self, order: bytes) -> bytes: ...


class RemoteControl:
    """Passes orders on to the engine's process."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def load(self, name: str, override: str | None = None) -> None:
        """As ModelControl.load; it is done in all processes."""
        await self._order(do="load", name=name, override=override)

    async def unload(self, name: str) -> bool:
        """As ModelControl.unload; it is done in all processes."""
        return bool(await self._order(do="unload", name=name))

    async def index(self) -> list[IndexRow]:
        """As ModelControl.index."""
        return [IndexRow(*row) for row in await self._order(do="index")]

    async def _order(self, **order: str | None) -> Any:
        outcome = orjson.loads(await self._ask(orjson.dumps(order)))
        if "failed" in outcome:
            raise LoadFailed(outcome["failed"])
        if "error" in outcome:
            raise error_of(outcome["error"].encode())
        return outcome["result"]
