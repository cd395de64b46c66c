"""POST or PUT /v1/denoise/video: a short noisy clip in, the clip without its noise out, and news while it is worked on.

A clip is an answer of its own (video/mp4 or video/x-matroska), sent when it is finished, so that its status is true;
or the last line of a stream of JSON lines (application/x-ndjson), which begins with the first finished window.
"""

import asyncio
import base64
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Receive, Scope, Send

from serve.admission import Admission, Places, taken
from serve.errors import BadField, RequestError, internal_error, quoted
from serve.intake import Intake, Order
from serve.models.groups import Groups
from serve.models.repository import Repository
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from serve.video.frames import VideoLimits, VideoType
from serve.web.accept import acceptable
from serve.web.asgi import ClientGone, header_list, raw_headers, send_bytes, send_pieces, server_timing
from serve.web.doorway import NOTES
from serve.web.uploads import Wanted

if TYPE_CHECKING:
    from serve.video.restore_clip import ClipAnswer

logger = logging.getLogger(__name__)

VIDEO_PARAMETERS = ("model", "sigma")
LINES = "application/x-ndjson"
VIDEO_TYPES = ("video/mp4", "video/x-matroska", LINES)
MAX_SIGMA = 255.0


class DenoiseVideo:
    """Hands clips to threads, passes on how far they are, and answers."""

    def __init__(
        self, settings: Settings, repository: Repository, groups: Groups, admission: Admission, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._limits = VideoLimits(
            max_frames=settings.max_video_frames,
            max_frame_pixels=settings.max_video_frame_pixels,
            max_pixels=settings.max_video_pixels,
            memory_bytes=settings.max_video_decoder_bytes,
            cpu_s=settings.video_decode_s,
        )
        self._admission = admission
        self._clips = Places(settings.max_videos, "clips")
        wanted = Wanted(VIDEO_PARAMETERS, 1, "video")
        self._intake = Intake(settings, repository, groups, admission, self._clips, metrics, "video-denoising", wanted)
        self._threads = ThreadPoolExecutor(settings.max_videos, thread_name_prefix="clip")
        if any(model.task == "video-denoising" for model in repository.models.values()):
            import serve.video.restore_clip  # noqa: F401  # needs PyAV, which other servers do without; now, not at a request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._intake.serve(scope, receive, send, self._answer)

    def close(self) -> None:
        """Ends the threads; what they worked on was stopped when its request was."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, order: Order) -> None:
        media_type = acceptable(header_list(order.scope, b"accept"), VIDEO_TYPES)[0]
        sigma = parse_sigma(order.parameters.get("sigma"))
        job = _Job(order, media_type, sigma, self._limits, self._settings)
        job.begin(self._threads, (self._clips, *self._admission.of(order.model.name)))
        try:
            if media_type == LINES:
                await self._stream(job)
            else:
                async for _ in job.news():
                    pass
                await self._send(job, job.answer())
        except (ClientGone, asyncio.CancelledError):
            job.work.stop()
            self._metrics.cancelled("infer")
            raise

    async def _send(self, job: "_Job", answer: "ClipAnswer") -> None:
        self._observe(job, answer)
        headers = {
            **_headers(job, job.media_type),
            "Server-Timing": server_timing(job.stages()),
            "X-Skipvit-Tiles": str(len(job.work.tiles.runs_s)),
        }
        if answer.notes:
            headers["X-Skipvit-Note"] = "; ".join(answer.notes)
        await send_bytes(job.order.send, answer.data, headers, self._settings.send_timeout_s)

    async def _stream(self, job: "_Job") -> None:
        """Sends a line of news for each window and the clip in the last one; errors before the first are plain."""
        started = False
        last: bytes
        try:
            async for done, frames in job.news():
                if not started:
                    await _start(job)
                    started = True
                news = _as_line({"done": done, "frames": frames or None})
                await job.order.send({"type": "http.response.body", "body": news, "more_body": True})
            answer = job.answer()
            self._observe(job, answer)
            last = await asyncio.to_thread(_last_line, job, answer)
        except RequestError as error:
            if not started:
                raise
            last = _as_line({"error": error.as_dict(), "id": job.order.request_id})
        except Exception as error:  # ours, and too late for a status of its own
            if not started:
                raise
            logger.error("request %s failed", job.order.request_id, exc_info=error)
            last = _as_line({"error": internal_error().as_dict(), "id": job.order.request_id})
        await send_pieces(job.order.send, last, self._settings.send_timeout_s)

    def _observe(self, job: "_Job", answer: "ClipAnswer") -> None:
        model = job.order.model.name
        for stage in ("decode", "denoise", "encode"):
            self._metrics.stage(stage, job.work.seconds[stage], model)
        for waited, ran in zip(job.work.tiles.waits_s, job.work.tiles.runs_s, strict=True):
            self._metrics.stage("queue", waited, model)
            self._metrics.stage("infer", ran, model)
        self._metrics.tiles(model, len(job.work.tiles.runs_s))
        job.order.scope[NOTES].update(tiles=len(job.work.tiles.runs_s), frames=answer.frames, type=job.media_type)


class _Job:
    """One request's clip: the thread that works on it, and what the event loop hears of it."""

    def __init__(
        self, order: Order, media_type: str, sigma: float | None, limits: VideoLimits, settings: Settings
    ) -> None:
        from serve.video.restore_clip import ClipOrder, ClipWork

        [clip] = order.pictures
        self.order = order
        self.media_type = media_type
        self.kind: VideoType = "video/x-matroska" if media_type == "video/x-matroska" else "video/mp4"
        what = quoted(clip.name) if clip.name else "the clip"
        most, ahead = settings.max_video_answer_bytes, order.model.tiles_ahead
        clip_order = ClipOrder(clip.data, what, self.kind, sigma, limits, most, ahead, order.priority)
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        self.work = ClipWork(clip_order, order.model, self._tell)

    def begin(self, threads: ThreadPoolExecutor, places: Sequence[Places]) -> None:
        """Starts the work, which has its places until its thread is free. Raises Overloaded."""
        using = ExitStack()
        answered = using.enter_context(taken(1, *places))
        using.enter_context(self.order.model.in_use())
        self._running = self._loop.run_in_executor(threads, self.work.run)

        def end(future: "asyncio.Future[ClipAnswer]") -> None:
            if not future.cancelled() and future.exception() is None:
                answered()
            using.close()
            self._news.put_nowait(None)

        self._running.add_done_callback(end)

    async def news(self) -> AsyncIterator[tuple[int, int]]:
        """Frames done and frames claimed, window by window, until the work has ended. Raises ClientGone."""
        watcher = asyncio.create_task(self._until_gone())
        try:
            while (news := await self._news.get()) is not None:
                yield news
        finally:
            gone = watcher.done()
            watcher.cancel()
        if gone:
            raise ClientGone

    def answer(self) -> "ClipAnswer":
        """What the work came to; raises what it raised."""
        return self._running.result()

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, as all routes name them."""
        seconds = self.work.seconds
        return {
            "read": self.order.read_s,
            "decode": seconds["decode"],
            "queue": self.work.tiles.waits_s[0],
            "denoise": seconds["denoise"],
            "encode": seconds["encode"],
            "total": time.perf_counter() - self.order.started,
        }

    def _tell(self, done: int, claimed: int) -> None:
        self._loop.call_soon_threadsafe(self._news.put_nowait, (done, claimed))

    async def _until_gone(self) -> None:
        while (await self.order.client.receive())["type"] != "http.disconnect":
            pass
        self._news.put_nowait(None)


def parse_sigma(value: Any) -> float | None:
    """The noise's standard deviation in 1/255: 0 to 255, or its digits from a form or query; None to have it measured.

    Raises:
        BadField: it is neither.
    """
    if value is None:
        return None
    try:
        sigma = float(value) if isinstance(value, str) and len(value) <= 32 else math.nan
    except ValueError:
        sigma = math.nan
    if not 0 <= sigma <= MAX_SIGMA:  # false for NaN
        raise BadField(
            "bad_field",
            f"sigma is {quoted(str(value))}, a number from 0 to {MAX_SIGMA:g} was needed",
            "leave sigma out to have the noise measured, or give its standard deviation in 1/255, such as sigma=25",
        )
    return sigma


def _headers(job: _Job, media_type: str) -> dict[str, str]:
    return {"Content-Type": media_type, "Vary": "Accept", **job.order.chosen.headers}


def _last_line(job: _Job, answer: "ClipAnswer") -> bytes:
    return _as_line(
        {
            "clip": base64.b64encode(answer.data).decode("ascii"),
            "type": job.kind,
            "frames": answer.frames,
            "sigma": answer.sigma,
            "tiles": len(job.work.tiles.runs_s),
            "notes": answer.notes,
            "timing_ms": {stage: round(seconds * 1000, 3) for stage, seconds in job.stages().items()},
        }
    )


def _as_line(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


async def _start(job: _Job) -> None:
    headers = {**_headers(job, LINES), "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    await job.order.send({"type": "http.response.start", "status": 200, "headers": raw_headers(headers)})
