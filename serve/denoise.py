"""POST or PUT /v1/denoise: a noisy picture in, the same picture without its noise out."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from starlette.types import Receive, Scope, Send

from serve.admission import Admission, Places, taken
from serve.decoding import ImageLimits
from serve.intake import Intake, Order
from serve.models.groups import Groups
from serve.models.repository import Repository
from serve.monitoring.metrics import Metrics
from serve.photograph import OpenedPicture, Photograph
from serve.picture_format import FORMATS, Encoded, encode, fitting_type
from serve.restoring import Restoration, plan_for
from serve.settings import Settings
from serve.ticket import Where
from serve.tiles_in_flight import Stopped
from serve.web.accept import acceptable
from serve.web.asgi import ClientGone, header_list, send_bytes, server_timing
from serve.web.doorway import NOTES
from serve.web.parameters import parse_quality
from serve.web.uploads import Wanted

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
DENOISE_PARAMETERS = ("model", "variant", "quality")
_CLOSE_WITHIN_S = 10.0


class Denoise:
    """Decodes, restores tile by tile, encodes, answers.

    Every step that takes time runs in a thread of its own pool: what a picture needs apart from the model is short
    beside it, and the system shares the cores fairly between pictures of all sizes.
    """

    def __init__(
        self, settings: Settings, repository: Repository, groups: Groups, admission: Admission, metrics: Metrics
    ) -> None:
        self._settings = settings
        self.pictures = Places(settings.max_in_flight, "pictures")
        self._admission = admission
        self._metrics = metrics
        self._limits = ImageLimits(settings.max_pixels, settings.max_frames)
        self.pixels = Places(settings.pixels_in_flight, "pixels")
        wanted = Wanted(DENOISE_PARAMETERS, 1)
        self._intake = Intake(settings, repository, groups, admission, self.pictures, metrics, "denoising", wanted)
        self._threads = ThreadPoolExecutor(settings.max_in_flight, thread_name_prefix="denoise")
        self._unfinished: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._intake.serve(scope, receive, send, self._answer)

    async def close(self) -> None:
        """Waits for what goes on behind clients that hung up, and ends the threads."""
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_CLOSE_WITHIN_S)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def watch(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Starts work that ``close`` waits for, whoever has stopped waiting by then."""
        task = asyncio.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    async def _answer(self, order: Order) -> None:
        job = _Job(order, parse_quality(order.parameters.get("quality")))
        # A picture is decoded and encoded in one go. When its client hangs up meanwhile, the job ends by itself a
        # little later, and gives back only then what it holds.
        task = self.watch(self._work(job))
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()

        def finish(_task: "asyncio.Task[None]") -> None:
            if not finished.done():
                finished.set_result(None)

        task.add_done_callback(finish)
        try:
            await order.client.unless_gone(finished)
        except (ClientGone, asyncio.CancelledError):
            job.stop()
            task.add_done_callback(_look_at)
            self._metrics.cancelled(job.where)
            raise
        task.result()
        await self._send(job)

    async def _work(self, job: "_Job") -> None:
        model = job.order.model
        with model.in_use(), taken(1, *self.places(model.name)) as answered:
            await self._restore(job)
            answered()

    def places(self, model: str) -> tuple[Places, ...]:
        """What a picture for a model takes a place of."""
        return (self.pictures, *self._admission.of(model))

    async def _restore(self, job: "_Job") -> None:
        picture = job.order.pictures.pop()
        opened = await self.in_thread(OpenedPicture, picture.data, picture.name, self._limits)
        job.prepare(opened.width, opened.height, self._settings)
        with taken(opened.width * opened.height, self.pixels) as answered:
            started = time.perf_counter()
            photograph = await self.in_thread(opened.decode)
            job.times["decode"] = time.perf_counter() - started
            del picture, opened  # the encoded picture, which is no longer needed
            job.order.body.release()
            await self.in_thread(job.restore, photograph)
            await self.in_thread(job.encode, photograph)
            answered()

    async def in_thread(self, step: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Runs one step of a picture in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, step, *arguments)

    async def _send(self, job: "_Job") -> None:
        self._observe(job)
        encoded = job.encoded
        stages = {"read": job.order.read_s, **job.times, "total": time.perf_counter() - job.order.started}
        headers = {
            "Content-Type": encoded.media_type,
            "Vary": "Accept",
            "Server-Timing": server_timing(stages),
            **job.order.chosen.headers,
            "X-Skipvit-Tiles": str(len(job.tiles)),
        }
        if encoded.notes:
            headers["X-Skipvit-Note"] = "; ".join(encoded.notes)
        await send_bytes(job.order.send, encoded.data, headers, self._settings.send_timeout_s)

    def _observe(self, job: "_Job") -> None:
        model = job.order.model.name
        for stage in ("decode", "denoise", "encode"):
            self._metrics.stage(stage, job.times[stage], model)
        for waited, ran in zip(job.restoration.tiles.waits_s, job.restoration.tiles.runs_s, strict=True):
            self._metrics.stage("queue", waited, model)
            self._metrics.stage("infer", ran, model)
        self._metrics.tiles(model, len(job.tiles))
        job.order.scope[NOTES].update(tiles=len(job.tiles), type=job.encoded.media_type)


class _Job:
    """One request's picture, from its first byte to its last."""

    encoded: Encoded

    def __init__(self, order: Order, quality: int) -> None:
        self.order = order
        self.quality = quality
        self.liked = acceptable(header_list(order.scope, b"accept"), list(FORMATS))
        self.times: dict[str, float] = {}
        self._stopped = False

    def prepare(self, width: int, height: int, settings: Settings) -> None:
        """Plans the tiles and chooses the format, now that the size is known. Raises TooLarge or NotAcceptable."""
        model = self.order.model
        self.media_type = fitting_type(self.liked, width, height)
        self.tiles = plan_for(width, height, model.tiling, settings.max_pixels)
        self.restoration = Restoration(model.batcher, self.tiles, model.tiles_ahead, self.order.priority)
        if self._stopped:
            raise Stopped

    @property
    def where(self) -> Where:
        """The stage that it is in."""
        if "decode" not in self.times:
            return "decode"
        return "encode" if "denoise" in self.times else "infer"

    def stop(self) -> None:
        """Ends the job after the step that it is in."""
        self._stopped = True
        if hasattr(self, "restoration"):
            self.restoration.stop()

    def restore(self, photograph: Photograph) -> None:
        self.restoration.run(photograph)
        self.times["queue"] = self.restoration.tiles.waits_s[0]
        self.times["denoise"] = self.restoration.seconds

    def encode(self, photograph: Photograph) -> None:
        if self._stopped:
            raise Stopped
        started = time.perf_counter()
        self.encoded = encode(photograph, self.media_type, self.quality)
        self.times["encode"] = time.perf_counter() - started


def _look_at(task: "asyncio.Task[None]") -> None:
    """Nobody waits for this task; asyncio wants its error to be seen all the same."""
    if not task.cancelled():
        task.exception()
