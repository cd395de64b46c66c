"""A server of the page with two denoisers of stills and one of video whose arithmetic a test can repeat."""

import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import numpy as np
import uvicorn
from PIL import Image, ImageFilter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve.pages import page_routes
from tests.serve.servers import encoded, wait_until

RADII = {"blur": 1.5, "soft": 0.7}
SIDE = 96
SAMPLES = ("hills", "stripes")
_WINDOWS = 3


def sample(name: str) -> Image.Image:
    """A clean photograph of SIDE x SIDE, as the page is offered it."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if name == "stripes":
        channels = [np.sin(12 * across), np.cos(9 * down), np.sin(7 * (across + down))]
    else:
        channels = [across, down, np.cos(4 * across * down)]
    return Image.fromarray(
        np.stack([128 + 100 * channel for channel in channels], axis=2).clip(0, 255).astype(np.uint8)
    )


def blurred(picture: Image.Image, model: str) -> Image.Image:
    return picture.convert("RGB").filter(ImageFilter.GaussianBlur(RADII[model]))


class StubServer:
    """The page's side of the HTTP contract; ``delays`` are seconds before each model answers."""

    def __init__(self) -> None:
        self.delays: dict[str, float] = {}
        self.asked: list[tuple[str, str]] = []

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *page_routes(),
                Route("/v1/models", self._models),
                Route("/v1/models/{model}/samples/{file}", self._sample),
                Route("/v1/denoise", self._denoise, methods=["POST", "PUT"]),
                Route("/v1/denoise/video", self._video, methods=["POST", "PUT"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        models = [
            self._model(name, "denoising", [f"/v1/models/{name}/samples/{file}.png" for file in SAMPLES])
            for name in RADII
        ]
        digits = self._model("digits", "classification", []) | {
            "classes": 10,
            "labels": [str(k) for k in range(10)],
            "input": {"height": 64, "width": 64, "resize": "squash"},
        }
        return JSONResponse({"models": [*models, self._model("clips", "video-denoising", []), digits]})

    def _model(self, name: str, task: str, samples: list[str]) -> dict[str, Any]:
        return {
            "name": name, "version": "1", "task": task, "architecture": "gaussian_blur", "classes": 0, "labels": [],
            "input": None, "params": 0, "macs": 0, "max_batch": 1, "evaluation": None, "parity": [],
            "tiling": {"tile": 64, "halo": 8, "multiple": 8}, "samples": samples,
        }  # fmt: skip

    async def _sample(self, request: Request) -> Response:
        return Response(encoded(sample(request.path_params["file"].removesuffix(".png"))), media_type="image/png")

    async def _denoise(self, request: Request) -> Response:
        body = await request.body()
        model = request.query_params["model"]
        self.asked.append((model, request.headers["content-type"]))
        try:
            picture = Image.open(io.BytesIO(body))
            clean = blurred(picture, model)
        except OSError:
            return _problem("not_an_image", "the body is not an image that this server reads", "save it again as PNG")
        await self._delay(model)
        kind = request.headers["accept"]
        headers = {
            "Server-Timing": "read;dur=1.5, decode;dur=2.25, queue;dur=0.5, denoise;dur=20, encode;dur=4, total;dur=30",
            "X-Skipvit-Tiles": "4",
            "X-Skipvit-Model": f"{model}/1",
        }
        if picture.mode != "RGB":
            headers["X-Skipvit-Note"] = f"{picture.mode} converted to RGB"
        return Response(encoded(clean, kind.removeprefix("image/").upper()), media_type=kind, headers=headers)

    async def _delay(self, model: str, share: float = 1.0) -> None:
        """Sleeps for a model's delay, or until that is taken away."""
        started = anyio.current_time()
        while anyio.current_time() - started < share * self.delays.get(model, 0.0):
            await anyio.sleep(0.01)

    async def _video(self, request: Request) -> Response:
        clip = await request.body()
        sigma = request.query_params.get("sigma")
        claimed = 8 * _WINDOWS if request.headers["content-type"] == "video/webm" else None

        async def lines() -> AsyncIterator[str]:
            for window in range(1, _WINDOWS + 1):
                await self._delay("clips", 1 / _WINDOWS)
                yield json.dumps({"done": 8 * window, "frames": claimed}) + "\n"
            yield json.dumps(_FAILURE if sigma == "13" else _clip_answer(clip, sigma)) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")


_FAILURE = {"error": {"code": "engine_failed", "message": "the model failed", "hint": "try again"}, "id": "f00"}


def _clip_answer(clip: bytes, sigma: str | None) -> dict[str, Any]:
    return {
        "clip": base64.b64encode(clip).decode(),
        "type": "video/webm",
        "frames": 8 * _WINDOWS,
        "sigma": float(sigma or 7),
        "tiles": 6,
        "notes": [] if sigma else ["the noise was measured as sigma 7"],
        "timing_ms": {"read": 1.0, "decode": 5.0, "queue": 0.5, "denoise": 40.0, "encode": 9.0, "total": 60.0},
    }


def _problem(code: str, message: str, hint: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message, "hint": hint}, "id": "0123456789abcdef"}, 400)


@contextmanager
def stub_site() -> Iterator[tuple[str, StubServer]]:
    """The stub's URL on a free port, and the stub."""
    stub = StubServer()
    server = uvicorn.Server(uvicorn.Config(stub.app(), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", stub
    finally:
        server.should_exit = True
        thread.join()
