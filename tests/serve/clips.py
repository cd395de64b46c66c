"""Clips made by PyAV for tests, sound and broken ones."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

Frame = npt.NDArray[np.uint8]


def noise_frames(count: int, height: int = 24, width: int = 32, seed: int = 0) -> list[Frame]:
    """Frames without two equal bytes in a row, so that nothing can be mistaken for anything else."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


def gradient_frames(count: int, height: int = 48, width: int = 64) -> list[Frame]:
    """Smooth frames that move, which lossy codecs keep well."""
    y, x = np.mgrid[0:height, 0:width]
    return [np.stack([x * 3 + t, y * 4, 255 - x * 2 - t], axis=-1).clip(0, 255).astype(np.uint8) for t in range(count)]


def clip(
    frames: Sequence[Frame],
    format: str = "matroska",
    codec: str = "ffv1",
    layout: str = "bgr0",
    *,
    rate: Fraction | int = 25,
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    sound: str | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """Frames as a file. ``stamps`` are in units of ``time_base``; the default is FFV1 in Matroska, which is exact."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, _ = frames[0].shape
        stream.pix_fmt = layout
        base = time_base or 1 / Fraction(rate)
        stream.codec_context.time_base = base
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        if sound is not None:
            add_sound(file, sound)
        for number, pixels in enumerate(frames):
            picture = VideoFrame.from_ndarray(pixels, "rgb24")
            picture.pts, picture.time_base = (stamps[number] if stamps else number), base
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return buffer.getvalue()


def add_sound(file: Any, codec: str) -> None:
    """A tenth of a second of silence as a stream of its own."""
    stream = file.add_stream(codec, rate=8000, layout="mono")
    silence: Any = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
    silence.sample_rate, silence.pts = 8000, 0
    resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=8000, frame_size=stream.frame_size)
    for part in resampler.resample(silence):
        file.mux(stream.encode(part))
    file.mux(stream.encode())


def sound_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        add_sound(file, "pcm_s16le")
    return buffer.getvalue()


def packets_of(frame: Frame, codec: str, layout: str) -> tuple[Any, list[bytes]]:
    """A frame's encoder and what it wrote."""
    context: Any = av.CodecContext.create(codec, "w")
    context.height, context.width, _ = frame.shape
    context.pix_fmt, context.time_base, context.framerate = layout, Fraction(1, 25), Fraction(25)
    picture = VideoFrame.from_ndarray(frame, "rgb24")
    picture.pts = 0
    return context, [bytes(packet) for packet in [*context.encode(picture), *context.encode()]]


def from_packets(packets: Sequence[bytes], like: Frame, codec: str, layout: str) -> bytes:
    """A Matroska file of packets as they are, described by a frame."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream: Any = file.add_stream(codec, rate=25)
        stream.height, stream.width, _ = like.shape
        stream.pix_fmt = layout
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            file.mux(packet)
    return buffer.getvalue()


def changing_size() -> bytes:
    """Three motion JPEG frames, the last of them larger."""
    small, large = noise_frames(1, 16, 16)[0], noise_frames(1, 32, 48)[0]
    one, other = (packets_of(frame, "mjpeg", "yuvj420p")[1][0] for frame in (small, large))
    return from_packets([one, one, other], small, "mjpeg", "yuvj420p")


def million_frames(claimed: int = 10_000_000) -> bytes:
    """An MP4 of 10 frames whose index says that it has ``claimed``, all of them of one byte."""
    data = bytearray(clip(gradient_frames(10), "mp4", "libx264", "yuv420p"))
    for box, fields in (("stsz", {4: 1, 8: claimed}), ("stts", {8: claimed}), ("stsc", {12: claimed})):
        start = data.index(box.encode()) + 4
        for offset, value in fields.items():
            data[start + offset : start + offset + 4] = value.to_bytes(4, "big")
    return bytes(data)


def decoded(data: bytes) -> tuple[list[Frame], list[Fraction]]:
    """Frames of a file and their times in seconds, as FFmpeg has them."""
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(video=0))
        times = [frame.pts * frame.time_base for frame in frames]
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in frames], times
