"""A clip through a video denoiser: decode, cut, run, blend and encode, one window of frames in memory.

Runs in a thread of its own. The tiles of a window, all its frames deep, go to the model's batcher beside those of other
requests, a few at a time. Decoding is another process and the model has threads of its own, so the three overlap.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.models.served_model import ServedModel
from serve.restoring import plan_for
from serve.tiles_in_flight import Stopped, TilesInFlight
from serve.urgency import Priority
from serve.video.container import container_of
from serve.video.encoding import ClipEncoder
from serve.video.frames import RgbFrame, TimedFrame, VideoLimits, VideoType
from serve.video.noise_level import noise_sigma
from serve.video.reader import ClipReader
from skipvit.clips import Window, slide
from skipvit.tiling import Blender, Plan, Tile
from skipvit.transforms import Pixels

# Frames of the first window that the noise is measured on: its strength does not change within a short clip.
_MEASURED_FRAMES = 3


@dataclass(frozen=True)
class ClipOrder:
    """What is to become of a clip: its bytes, how to call it in messages, and what was asked for."""

    data: bytes
    what: str
    kind: VideoType
    sigma: float | None  # in 1/255; None to have it measured
    limits: VideoLimits
    max_bytes: int  # of the answer
    tiles_ahead: int
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True)
class ClipAnswer:
    """A finished clip, and what there is to say of it."""

    data: bytes
    frames: int
    sigma: int
    notes: list[str]


class ClipWork:
    """One clip in the hands of a model. ``run`` blocks; ``stop`` may be called from another thread.

    ``progress`` is called after each window with the frames that are done, and the frames that the container claims,
    or 0.
    """

    def __init__(self, order: ClipOrder, model: ServedModel, progress: Callable[[int, int], None]) -> None:
        self._order = order
        self._model = model
        self._progress = progress
        self._lock = threading.Lock()
        self._reader: ClipReader | None = None
        self.tiles = TilesInFlight(model.batcher, order.tiles_ahead, order.priority)
        # Seconds that this thread waited for frames, for tiles, and for the encoder.
        self.seconds = {"decode": 0.0, "denoise": 0.0, "encode": 0.0}

    def stop(self) -> None:
        """Ends the decoder's process at once and ``run`` at its next step."""
        with self._lock:
            self.tiles.stop()
            if self._reader is not None:
                self._reader.kill()

    def run(self) -> ClipAnswer:
        """Returns the restored clip.

        Raises:
            RequestError: the clip cannot be read, is over a limit, or the model failed on it.
            Stopped: ``stop`` was called.
        """
        container_of(self._order.data, self._order.what)  # what is no clip needs no process to find that out
        try:
            with ClipReader(self._order.limits, self._order.what) as reader:
                return self._run(reader)
        except Exception:  # whatever broke after ``stop``, broke because the decoder was taken away
            if self.tiles.stopped:
                raise Stopped from None
            raise
        finally:
            self.tiles.abandon()

    def _run(self, reader: ClipReader) -> ClipAnswer:
        order, tiling = self._order, self._model.tiling
        with self._lock:
            self._reader = reader
            if self.tiles.stopped:
                raise Stopped
        with self._timed("decode"):
            header = reader.begin(order.data)
        encoder = ClipEncoder(order.kind, header, order.max_bytes)
        tiles = plan_for(header.width, header.height, tiling, order.limits.max_frame_pixels)
        sigma = order.sigma
        done = 0
        for window, frames in slide(self._frames(reader), tiling.frames, tiling.lead, tiling.lag):
            with self._timed("denoise"):
                if sigma is None:
                    sigma = measured_sigma([frame.pixels for frame in frames])
                restored = self._restore(window, frames, tiles, round(sigma))
            with self._timed("encode"):
                for frame, pixels in zip(frames[window.kept], restored, strict=True):
                    encoder.add(TimedFrame(pixels, frame.time, frame.duration))
            done += window.count
            self._progress(done, header.frames)
        assert sigma is not None, "a clip has at least one frame, and so at least one window"
        notes = [*header.notes, *reader.notes, *encoder.notes]
        if order.sigma is None:
            notes.append(f"the noise was measured as sigma {round(sigma)}")
        with self._timed("encode"):
            data = encoder.finish()
        return ClipAnswer(data, done, round(sigma), notes)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def _frames(self, reader: ClipReader) -> Iterator[TimedFrame]:
        frames = iter(reader)
        while True:
            with self._timed("decode"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _restore(self, window: Window, frames: list[TimedFrame], tiles: Plan, sigma: int) -> npt.NDArray[np.uint8]:
        """The kept frames of a window, (kept, H, W, 3)."""
        restored = np.empty((window.count, tiles.height, tiles.width, 3), np.uint8)
        blender = Blender(tiles, window.count * 3)

        def cut(tile: Tile) -> Pixels:
            row = np.empty(self._model.row, np.uint8)  # (T, tile, tile, 4)
            for place, frame in enumerate(frames):
                row[place, ..., :3] = tiles.cut(frame.pixels, tile)
            row[..., 3] = sigma
            return row

        for tile, clip in self.tiles.restored(tiles, blender, cut):
            _, side, _, _ = clip.shape
            # (T, tile, tile, 3) -> (tile, tile, kept, 3) -> (tile, tile, kept * 3)
            channels = clip[window.kept].transpose(1, 2, 0, 3).reshape(side, side, window.count * 3)
            for top, left, pixels in blender.add(tile, channels):
                height, width, _ = pixels.shape
                # (h, w, kept * 3) -> (kept, h, w, 3)
                strip = pixels.reshape(height, width, window.count, 3).transpose(2, 0, 1, 3)
                restored[:, top : top + height, left : left + width] = strip
        return restored


def measured_sigma(frames: Sequence[RgbFrame]) -> float:
    """The noise of a clip, in 1/255: the median over a few frames spread over its first window."""
    step = max(1, len(frames) // _MEASURED_FRAMES)
    return float(np.median([noise_sigma(frame) for frame in frames[::step][:_MEASURED_FRAMES]]))
