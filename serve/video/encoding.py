"""Frames to a clip in memory: H.264 in MP4 for players, FFV1 in Matroska for those who want every bit back.

H.264 is written at a constant quality (CRF 14, near what eyes can tell apart) in 4:2:0, BT.709, with its index in
front. 4:2:0 halves both sides, so a clip of odd width or height is written in 4:4:4 instead: the answer keeps the
input's size. FFV1 keeps RGB as it is; the shape of pixels, which PyAV cannot tell the Matroska muxer, is lost.
Timestamps are the input's: in MP4 to the input's own precision or 1/90000 s, in Matroska to the millisecond that its
muxer knows.
"""

import io
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from serve.errors import TooLarge
from serve.video.frames import ClipHeader, TimedFrame, VideoType

# x264 holds the frames that it looks ahead to: 10 of them, not the preset's 30, for 0.2 dB on a noisy pan.
_X264 = {"crf": "14", "preset": "fast", "rc-lookahead": "10"}
_THREADS = 2
_MATROSKA_STEP = Fraction(1, 1000)
_FINEST_STEP = 90_000  # a second's parts that the MP4 muxer can hold beside any pause that we take
_USUAL_RATE = Fraction(25)
_AVCOL_SPC_BT709 = 1
_SMOOTH = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND


class ClipEncoder:
    """Takes frames in order; ``finish`` returns the clip. Used by one thread at a time."""

    def __init__(self, kind: VideoType, header: ClipHeader, max_bytes: int) -> None:
        self._memory = memory = _CappedMemory(max_bytes)
        lossless = kind == "video/x-matroska"
        self._aspect = Fraction(*header.pixel_aspect)
        self._base = _time_base(header, lossless)
        self._last_pts = -1
        options = {} if lossless else {"movflags": "faststart"}
        self._file: OutputContainer = av.open(
            self._memory,
            "w",
            format="matroska" if lossless else "mp4",
            container_options=options,
            io_open=lambda _url, _flags, _options: memory.reader(),  # faststart reads back what it wrote
        )
        self._stream = self._lossless_stream(header) if lossless else self._player_stream(header)
        self._stream.codec_context.time_base = self._base
        self._rgb = lossless

    @property
    def notes(self) -> list[str]:
        """What the format does to the clip that its owner may not expect."""
        notes = []
        if self._stream.pix_fmt == "yuv444p":
            notes.append("odd width or height: written as H.264 4:4:4, which some players do not show")
        if self._rgb and self._aspect != 1:
            notes.append(f"pixels of {self._aspect.numerator}:{self._aspect.denominator} were written as square ones")
        return notes

    def add(self, frame: TimedFrame) -> None:
        """Encodes one frame, of the header's size.

        Raises:
            TooLarge: the clip would be over ``max_bytes``.
        """
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame.pixels), "rgb24")
        if not self._rgb:
            picture = picture.reformat(
                format=self._stream.pix_fmt,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_SMOOTH,
                threads=1,
            )
        # Two timestamps that round to one would make the second frame vanish.
        picture.pts = self._last_pts = max(self._last_pts + 1, round(frame.time / self._base))
        picture.time_base = self._base
        picture.duration = round(frame.duration / self._base)
        self._write(picture)

    def finish(self) -> bytes:
        """Returns the whole clip."""
        self._write(None)
        try:
            self._file.close()
        except (av.error.FFmpegError, OSError):
            self._memory.check()
            raise
        self._memory.check()
        return self._memory.getvalue()

    def _write(self, picture: VideoFrame | None) -> None:
        try:
            self._file.mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError):
            self._memory.check()
            raise
        self._memory.check()

    def _player_stream(self, header: ClipHeader) -> VideoStream:
        even = header.width % 2 == 0 and header.height % 2 == 0
        stream = self._stream_of("libx264", header, "yuv420p" if even else "yuv444p", _X264)
        context: Any = stream.codec_context
        context.colorspace, context.color_range = _AVCOL_SPC_BT709, int(ColorRange.MPEG)
        return stream

    def _lossless_stream(self, header: ClipHeader) -> VideoStream:
        # Frames narrower than that FFmpeg cannot always cut into slices, which level 1 has not.
        sliced = min(header.width, header.height) >= 16
        options = {"level": "3", "slicecrc": "1", "slices": "4"} if sliced else {"level": "1"}
        stream = self._stream_of("ffv1", header, "bgr0", options)
        stream.gop_size = 1  # every frame stands alone, as archives ask of FFV1
        return stream

    def _stream_of(self, codec: str, header: ClipHeader, layout: str, options: dict[str, str]) -> VideoStream:
        # Of a clip that is nearly all pause, the rate would be too small for the encoder.
        rate = Fraction(*header.rate).limit_denominator(_FINEST_STEP) or _USUAL_RATE
        stream = self._file.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = header.width, header.height, layout
        stream.thread_count = _THREADS
        stream.codec_context.sample_aspect_ratio = self._aspect
        stream.codec_context.color_primaries, stream.codec_context.color_trc = header.primaries, header.transfer
        return stream


def _time_base(header: ClipHeader, lossless: bool) -> Fraction:
    if lossless:
        return _MATROSKA_STEP
    parts = Fraction(*header.time_base).denominator
    return Fraction(1, min(parts, _FINEST_STEP))


class _CappedMemory(io.BytesIO):
    """A file in memory that does not grow over its cap, and remembers that it should have."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._full = False

    def write(self, data: Any) -> int:
        if self._full or self.tell() + len(data) > self._max_bytes:
            self._full = True
            raise OSError("the clip is over its cap")
        return super().write(data)

    def check(self) -> None:
        """Raises TooLarge if something did not fit."""
        if self._full:
            raise TooLarge(
                "answer_too_large",
                f"the clip that would be the answer has over {self._max_bytes} bytes",
                "send a shorter or smaller clip, or ask for video/mp4, which is much smaller than lossless Matroska",
            )

    def close(self) -> None:
        """Muxers close what they wrote; the bytes are still wanted."""

    def reader(self) -> "_Reader":
        """A second view of the same bytes, with a place of its own."""
        return _Reader(self)


class _Reader:
    def __init__(self, memory: io.BytesIO) -> None:
        self._memory = memory
        self._at = 0

    def read(self, size: int) -> bytes:
        with self._memory.getbuffer() as view:
            data = bytes(view[self._at : self._at + size])
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += len(self._memory.getvalue())
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at
