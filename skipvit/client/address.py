"""A server's address, what every request to it carries, and why it does not answer."""

from collections.abc import Iterator

import httpx

import skipvit
from skipvit.client.errors import BadInput, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"


def checked_url(url: str) -> str:
    """The server's URL without a slash at its end. Raises BadInput if it is none."""
    try:
        parsed = httpx.URL(url)
        fits = parsed.scheme in ("http", "https") and bool(parsed.host) and not parsed.query and not parsed.fragment
    except httpx.InvalidURL:
        fits = False
    if not fits:
        raise BadInput(f"{url[:200]!r} is not a server's URL", f"give one such as {DEFAULT_URL} (--url, SKIPVIT_URL)")
    return url.rstrip("/")


def base_headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request. Answers come as they are: a picture gains nothing from compression.

    Raises:
        BadInput: no header can carry the key.
    """
    headers = {"User-Agent": f"skipvit-client/{skipvit.__version__}", "Accept-Encoding": "identity"}
    if api_key is None:
        return headers
    if not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise BadInput("the API key is empty or has characters that no header can carry", "check SKIPVIT_API_KEY")
    return headers | {"Authorization": f"Bearer {api_key}"}


def unreachable(url: str, error: BaseException) -> Unreachable:
    """A connection that could not be made, in words; ``error`` is what httpx or asyncio raised."""
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        hint = "is skipvit-serve running there? Start it with: skipvit-serve models; or give another --url"
        return Unreachable(f"nothing listens at {url}: connection refused", hint, refused=True)
    why = next((str(cause) for cause in reversed(causes) if str(cause)), type(error).__name__)
    return Unreachable(f"{url} cannot be reached: {why}", "check the URL's host and port (--url, SKIPVIT_URL)")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it, those in groups included."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from _causes(member)
        error = error.__cause__ or error.__context__
