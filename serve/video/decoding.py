"""Clips to frames, trusting nothing: one frame at a time, with what a clip may hold counted while it is decoded.

Runs in a process of its own (serve.video.reader), for FFmpeg's parsers are C code that reads hostile bytes: a 16 KB
MP4 that claims 10^7 frames makes them take 700 MB. What a header says of length and number of frames is not believed.

- The demuxer is that of the container found by its first bytes; no other is tried, and no other file is opened.
- Decoders are those of `CODECS`; sound and subtitles are never decoded.
- Width x height is checked before a frame is decoded, and every frame must have the same.
- A frame's time is its timestamp. One without a timestamp, or not after the frame before it, comes one frame later
  than that one, at the clip's average rate, and a note says so. A rate of zero or over 250 frames/s is refused.
- Frames are turned upright as the display matrix says, and come as 8-bit RGB.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import av.stream
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream

from serve.errors import BadVideo, RequestError, TooLarge
from serve.video.clock import Clock
from serve.video.container import MAX_RATE, bad_frame_rate, container_of, truncated
from serve.video.frames import ClipHeader, RgbFrame, TimedFrame, VideoLimits

CODECS = (
    "h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "mpeg2video", "mjpeg", "prores", "ffv1", "huffyuv", "ffvhuff",
    "rawvideo",
)  # fmt: skip
_CODEC_NAMES = "H.264, HEVC, VP8, VP9, AV1, MPEG-4, MPEG-2, Motion JPEG, ProRes, FFV1, HuffYUV, uncompressed"
_DEMUXERS = {"mp4": "mov", "matroska": "matroska", "avi": "avi"}
_UNSPECIFIED_MATRIX = 2  # AVCOL_SPC_UNSPECIFIED
_HD_LINES = 720
_LONGEST_SIDE = 16_384  # of libx264, which writes the answer
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


class ClipDecoder:
    """One clip: ``header``, then the frames by iterating, then ``notes`` on what was changed on the way."""

    def __init__(self, data: bytes, limits: VideoLimits, what: str) -> None:
        self._limits = limits
        self._what = what
        self._size = len(data)
        container = container_of(data, what)
        options = {
            "codec_whitelist": ",".join(CODECS),
            "protocol_whitelist": "none",
            "max_streams": "32",
            "threads": "1",
        }
        try:
            self._file = av.open(
                io.BytesIO(data), "r", format=_DEMUXERS[container], options=options, io_open=_refuse_to_open
            )
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise self._broken(error) from None
        self._stream = self._choose_stream()
        self._clock = Clock(self._nominal_rate(), self._stream.time_base, what)
        self._turn = _Turn()
        self._damaged = 0
        self._frames = self._decode()
        self._first = next(self._frames, None)
        if self._first is None:
            raise BadVideo("empty_video", f"{what} holds no frame", "send a clip with at least one frame")
        self.header = self._header(self._first)

    def __iter__(self) -> Iterator[TimedFrame]:
        assert self._first is not None
        yield self._first
        yield from self._frames
        self._file.close()

    @property
    def notes(self) -> list[str]:
        """What happened to the frames so far, for people."""
        notes = []
        if self._clock.repaired:
            notes.append(f"{self._clock.repaired} frames without a usable timestamp were put one frame apart")
        if self._damaged:
            notes.append(f"{self._damaged} damaged frames were mended by the decoder")
        return notes

    def _choose_stream(self) -> VideoStream:
        streams = [s for s in self._file.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise BadVideo("no_video", f"{self._what} holds no video stream", "send a clip with pictures in it")
        stream = streams[0]
        context = stream.codec_context
        name = context.name if context is not None else "an unknown codec"
        if name not in CODECS:
            raise BadVideo(
                "wrong_codec", f"the pictures of {self._what} are coded as {name}", f"use one of: {_CODEC_NAMES}"
            )
        self._check_size(stream.width, stream.height)
        # Frames may be larger than their header says. FFmpeg's own limit counts padding, so ours comes first.
        context.options = {"max_pixels": str(4 * self._limits.max_frame_pixels + (1 << 22))}
        context.thread_count = 1
        return stream

    def _check_size(self, width: int, height: int) -> None:
        limit = self._limits.max_frame_pixels
        if width * height > limit:
            raise TooLarge(
                "video_too_large",
                f"{self._what} has frames of {width} x {height} pixels, the limit is {limit} pixels",
                "make the clip smaller before sending it",
            )
        if max(width, height) > _LONGEST_SIDE:
            raise TooLarge(
                "video_too_large",
                f"{self._what} has frames of {width} x {height} pixels, the limit is {_LONGEST_SIDE} along a side",
                "make the clip smaller before sending it",
            )

    def _nominal_rate(self) -> Fraction:
        """Average frames/s; 0 where the container does not know."""
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(0)
        # For a browser's recording, whose frames come when they come, FFmpeg gives the tick of its timestamps.
        if not self._stream.average_rate and rate == 1 / (self._stream.time_base or Fraction(1)):
            return Fraction(0)
        if rate < 0 or rate > MAX_RATE:
            raise bad_frame_rate(self._what, f"{float(rate):g} frames/s")
        return rate

    def _decode(self) -> Iterator[TimedFrame]:
        limits = self._limits
        packets = frames = 0
        size: tuple[int, int] | None = None
        try:
            for packet in self._file.demux(self._stream):
                packets += 1
                if packets > 4 * limits.max_frames + 64:
                    raise self._too_many_frames(f"{packets} packets")
                for frame in packet.decode():
                    frames += 1
                    size = self._check(frame, frames, size)
                    yield self._timed(frame)
        except (av.error.FFmpegError, ValueError) as error:
            raise self._broken(error, frames) from None

    def _check(self, frame: VideoFrame, number: int, size: tuple[int, int] | None) -> tuple[int, int]:
        if size is not None and size != (frame.width, frame.height):
            raise BadVideo(
                "size_changes",
                f"frame {number} of {self._what} has {frame.width} x {frame.height} pixels, "
                f"those before it {size[0]} x {size[1]}",
                "send the parts as clips of their own",
            )
        if number > self._limits.max_frames:
            raise self._too_many_frames(f"over {self._limits.max_frames} frames")
        self._check_size(frame.width, frame.height)
        pixels = number * frame.width * frame.height
        if pixels > self._limits.max_pixels:
            raise TooLarge(
                "video_too_large",
                f"the first {number} frames of {self._what} have {pixels} pixels, the limit is "
                f"{self._limits.max_pixels} for all frames together",
                "send a shorter or a smaller clip",
            )
        self._damaged += frame.is_corrupt
        return frame.width, frame.height

    def _timed(self, frame: VideoFrame) -> TimedFrame:
        pixels: Any = frame.to_ndarray(format="rgb24", src_colorspace=_matrix(frame), interpolation=_EXACT, threads=1)
        return TimedFrame(self._turn.upright(frame, pixels), *self._clock.tell(frame))

    def _header(self, first: TimedFrame) -> ClipHeader:
        height, width, _ = first.pixels.shape
        stream = self._stream
        context = stream.codec_context
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
        if self._turn.on_its_side:
            aspect = 1 / aspect
        return ClipHeader(
            width=width,
            height=height,
            time_base=_pair(stream.time_base or Fraction(1, 1000)),
            rate=_pair(self._clock.rate),
            frames=self._claimed_frames(),
            pixel_aspect=_pair(aspect),
            primaries=int(context.color_primaries),
            transfer=int(context.color_trc),
            notes=tuple(self._changes()),
        )

    def _claimed_frames(self) -> int:
        seconds = Fraction(self._file.duration or 0, 1_000_000)
        claimed = self._stream.frames or round(seconds * self._clock.rate)
        return max(0, min(claimed, self._limits.max_frames))

    def _changes(self) -> Iterator[str]:
        streams = self._file.streams
        if streams.audio:
            yield "the sound was dropped"
        if streams.subtitles:
            yield "the subtitles were dropped"
        if len(streams.video) > 1:
            yield f"the first of {len(streams.video)} video streams was taken"
        if self._turn.note:
            yield self._turn.note
        layout = self._stream.codec_context.format
        if layout is not None and layout.components:
            bits = max(component.bits for component in layout.components)
            if bits > 8:
                yield f"{bits} bits a channel were reduced to 8"
            if any(component.is_alpha for component in layout.components):
                yield "transparency was dropped"

    def _too_many_frames(self, count: str) -> TooLarge:
        return TooLarge(
            "too_many_frames",
            f"{self._what} has {count}, the limit is {self._limits.max_frames} frames",
            "send it in shorter pieces",
        )

    def _broken(self, error: Exception, frames: int = 0) -> RequestError:
        if isinstance(error, MemoryError):
            raise MemoryError from None
        reason = (getattr(error, "strerror", None) or str(error))[:200]
        if isinstance(error, av.error.EOFError):
            return truncated(self._what, f"it ends after {self._size} bytes")
        where = f"after frame {frames}" if frames else "at its start"
        return BadVideo(
            "bad_video",
            f"{self._what} cannot be decoded: it is damaged {where} ({reason})",
            "check that it plays, and convert it, for example: ffmpeg -i CLIP clip.mp4",
        )


class _Turn:
    """The display matrix of a clip: quarter turns and mirrors are carried out, anything else is left alone."""

    def __init__(self) -> None:
        self.note = ""
        self.on_its_side = False

    def upright(self, frame: VideoFrame, pixels: RgbFrame) -> RgbFrame:
        """Returns the frame's pixels (height, width, 3) as they are to be shown."""
        side_data: Any = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return pixels
        # Nine native int32, [a b u; c d v; x y w] with (x', y') = (a x + c y, b x + d y), 1 being 65536.
        values = np.frombuffer(bytes(side_data), np.int32)[[0, 1, 3, 4]] / 65536
        a, b, c, d = (round(float(value)) for value in values)
        if (abs(a), abs(b), abs(c), abs(d)) not in ((1, 0, 0, 1), (0, 1, 1, 0)):
            self.note = "the clip's rotation is no quarter turn and was dropped"
            return pixels
        if (a, b, c, d) == (1, 0, 0, 1):
            return pixels
        self.note, self.on_its_side = "frames were turned upright", a == 0
        if self.on_its_side:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: (d or b), :: (a or c)])


def _matrix(frame: VideoFrame) -> int | None:
    """The matrix of a frame's colours; where it does not say, that of its size, as players take it."""
    if frame.colorspace != _UNSPECIFIED_MATRIX:
        return None
    return int(Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601)


def _pair(value: Fraction) -> tuple[int, int]:
    return value.numerator, value.denominator


def _refuse_to_open(url: str, _flags: int, _options: dict[str, Any]) -> None:
    raise OSError(f"a clip may not name another file, and this one names {url[:80]!r}")
