"""What stands around the routes, from the inside out.

The short way to those that are asked most, the gate, the doorway, and leave for browsers of other sites.
"""

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from serve.monitoring.live import STATUS
from serve.monitoring.metrics import Metrics
from serve.monitoring.tracing import Tracing
from serve.pages import page_routes
from serve.settings import Settings
from serve.web.api_keys import ApiKeys
from serve.web.doorway import Book, Doorway
from serve.web.gate import METRICS, OPENAPI, PROBES, Gate
from serve.web.hot_routes import HotRoutes
from serve.web.loop_rest import Rest
from serve.web.shedding import Entrance, Shedding

_METHODS = ("GET", "HEAD", "POST", "PUT")
# Headers of answers that scripts may read; browsers hide all others from pages of another origin.
_READABLE = (
    "Inference-Header-Content-Length",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Request-ID",
    "X-Skipvit-Group",
    "X-Skipvit-Model",
    "X-Skipvit-Note",
    "X-Skipvit-Tiles",
)


def add_middleware(
    app: FastAPI,
    hot: Mapping[str, ASGIApp],
    entrances: Mapping[str, Entrance],
    settings: Settings,
    metrics: Metrics,
    tracing: Tracing | None,
    rest: Rest,
) -> Shedding | None:
    """Wraps the app in all of it, now that its routes are complete; ``hot`` are some of them by path.

    Returns what sheds requests at their ``entrances``, and has the event loop ``rest`` after that; None with tracing,
    which is to see every request.

    Raises:
        BadKeys: the settings name a file of API keys that cannot be used.
    """
    keys = ApiKeys(settings.api_keys) if settings.api_keys else None
    app.add_middleware(HotRoutes, routes=hot)
    public = public_paths(settings)
    app.add_middleware(Gate, keys=keys, metrics=metrics, public=public, origins=settings.cors_origins)
    routes = [route.path for route in app.routes if isinstance(route, Route)]
    headers = security_headers(settings)
    book = Book(metrics, settings.access_log, {*PROBES, METRICS, STATUS})
    app.add_middleware(Doorway, book=book, routes=routes, headers=headers, tracing=tracing)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=_METHODS,
            allow_headers=["*"],  # no cookies are allowed, so a header does nothing that its sender could not do
            expose_headers=_READABLE,
        )
    if tracing is not None:
        return None
    if settings.cors_origins:  # CORSMiddleware says so of answers to those who name no origin, too
        headers = {**headers, "Vary": "Origin"}
    return Shedding(entrances, Gate(app, keys, metrics, public, settings.cors_origins), book, headers, rest)


def public_paths(settings: Settings) -> set[str]:
    """Paths that need no key: probes, and the page with its API reference, which say nothing of models or load."""
    page = {route.path for route in page_routes()}
    return {*PROBES, OPENAPI, *page, *((METRICS,) if settings.open_metrics else ())}


def security_headers(settings: Settings) -> dict[str, str]:
    """Headers of every answer; those that only pages need are theirs."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if settings.tls_cert and settings.hsts_s:
        headers["Strict-Transport-Security"] = f"max-age={settings.hsts_s}"
    return headers
