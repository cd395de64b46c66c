"""The page, the API reference and their assets: small files, read once, served with an ETag. No CDN."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "page"
# Nothing of the page comes from elsewhere, and nothing else may embed it.
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_URLS = {
    "/": "index.html",
    "/docs": "docs.html",
    "/favicon.ico": "favicon.svg",  # browsers ask for it whatever the page says
    **{f"/page/{file.name}": file.name for file in sorted(_FOLDER.iterdir()) if file.suffix in {".css", ".js", ".svg"}},
}


class _File:
    """One file as an endpoint."""

    def __init__(self, name: str) -> None:
        self._body = (_FOLDER / name).read_bytes()
        self._type = _TYPES[Path(name).suffix]
        # no-cache means "ask before use": a new version shows at once, an unchanged one costs a 304.
        self._headers = {
            "ETag": f'"{hashlib.sha256(self._body).hexdigest()[:16]}"',
            "Cache-Control": "no-cache",
            **_SECURITY,
        }

    async def __call__(self, request: Request) -> Response:
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self._headers["ETag"] in known:
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, media_type=self._type, headers=self._headers)


def page_routes() -> list[Route]:
    """Routes of the page and its assets."""
    return [Route(url, _File(name).__call__, name=url, include_in_schema=False) for url, name in _URLS.items()]
