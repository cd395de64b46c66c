"""The short way to a route leads where the long one does."""

import asyncio

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.web.hot_routes import HotRoutes


@pytest.mark.parametrize(
    ("scope", "led_to"),
    [
        ({"method": "POST", "path": "/hot"}, "hot"),
        ({"method": "PUT", "path": "/hot"}, "hot"),
        ({"method": "GET", "path": "/hot"}, "app"),  # which says what the route takes
        ({"method": "POST", "path": "/hot/"}, "app"),
        ({"method": "POST", "path": "/HOT"}, "app"),
        ({"method": "POST", "path": "/cold"}, "app"),
        ({"method": "POST", "path": "/under/hot", "root_path": "/under"}, "hot"),
        ({"method": "POST", "path": "/under/hot"}, "app"),
        ({"type": "lifespan"}, "app"),
        ({"type": "websocket", "path": "/hot"}, "app"),
    ],
)
def test_who_is_led_where(scope: Scope, led_to: str) -> None:
    seen: list[str] = []

    def noting(name: str) -> ASGIApp:
        async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
            seen.append(name)

        return app

    asyncio.run(HotRoutes(noting("app"), {"/hot": noting("hot")})({"type": "http", **scope}, None, None))  # type: ignore[arg-type]
    assert seen == [led_to]
