"""Who may come in, decided before a byte of the body is read: API keys, and no orders from other sites' pages."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import Forbidden, RequestError, Unauthorized, quoted
from serve.monitoring.metrics import Metrics
from serve.web.api_keys import ApiKeys, Right
from serve.web.asgi import header, send_error
from serve.web.doorway import NOTES, REQUEST_ID

METRICS = "/metrics"
# Probes come from balancers that hold no key, and the page asks its user for one.
PROBES = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPENAPI = "/openapi.json"
_ADMIN = "/v2/repository/models/"  # what is served is changed there
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN = frozenset({"cross-site", "same-site"})


class Gate:
    """Lets requests through to ``app``, or answers 401 or 403. Without ``keys`` everybody may ask for everything.

    Even then no page of another site may: a browser on the server's own machine would send its orders to 127.0.0.1.
    Browsers say in Sec-Fetch-Site or Origin where a request comes from, and other clients do not send them.
    """

    def __init__(
        self, app: ASGIApp, keys: ApiKeys | None, metrics: Metrics, public: Collection[str], origins: Collection[str]
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._public = frozenset(public)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self.check(scope)
            except RequestError as error:
                self._metrics.rejected(error.code)
                await send_error(send, error, scope[REQUEST_ID], scope["path"])
                return
        await self._app(scope, receive, send)

    @property
    def is_open(self) -> bool:
        """Whether whoever is not sent by a page may come in."""
        return self._keys is None

    def check(self, scope: Scope) -> None:
        """Raises Unauthorized or Forbidden unless the request of ``scope`` may come in."""
        path = route_path(scope)
        if scope["method"] not in _SAFE and _is_foreign(scope, path):
            self._check_origin(header(scope, b"origin"))
        if self._keys is None or path in self._public:
            return
        presented = _presented(scope)
        key = self._keys.find(presented) if presented else None
        if key is None:
            raise _unknown(presented)
        scope[NOTES]["key"] = key.name
        right = right_of(path)
        if not key.may(right):
            raise Forbidden(
                "wrong_scope",
                f"the API key {key.name!r} has no scope for {right!r}",
                f"use a key with the scope {right}, or have it added to this one",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{right}"'},
            )

    def _check_origin(self, origin: str) -> None:
        if origin not in self._origins and "*" not in self._origins:
            raise Forbidden(
                "cross_site",
                f"a page of {quoted(origin)} sent this, which is another site",
                "start the server with its origin in --cors-origins if it may",
            )


def _is_foreign(scope: Scope, path: str) -> bool:
    """Whether a page of another site sent this.

    Where there is neither TLS nor localhost browsers do not say, and the page's origin is compared with the host that
    was asked for: only for orders, since a proxy may have changed the host.
    """
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if site or not origin:
        return site in _FOREIGN
    return right_of(path) == "admin" and origin.partition("://")[2] != header(scope, b"host")


def right_of(path: str) -> Right:
    """What a key must be good for."""
    if path.startswith(_ADMIN):
        return "admin"
    return "metrics" if path == METRICS else "infer"


def route_path(scope: Scope) -> str:
    """The path as routes see it, without the prefix under which the app is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # As Starlette does it, to the letter: whoever is let in for one path must not be led to another.
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _presented(scope: Scope) -> str:
    """The key of a request: X-API-Key, or else the token of Authorization: Bearer."""
    if key := header(scope, b"x-api-key").strip():
        return key
    scheme, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unknown(presented: str) -> Unauthorized:
    if presented:
        message, challenge = "the API key is not known here", 'Bearer realm="skipvit", error="invalid_token"'
    else:
        message, challenge = "no API key came", 'Bearer realm="skipvit"'
    return Unauthorized(
        "unauthorized",
        message,
        "send Authorization: Bearer KEY or X-API-Key: KEY, with a key that the operator of this server gave you",
        headers={"WWW-Authenticate": challenge},
    )
