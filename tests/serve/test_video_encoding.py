"""Encoded clips, read back by FFmpeg: exact where they say so, and what players need."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import TooLarge
from serve.video.encoding import ClipEncoder
from serve.video.frames import ClipHeader, TimedFrame, VideoType
from tests.serve.clips import Frame, decoded, gradient_frames, noise_frames

HEADER = ClipHeader(64, 48, (1, 30000), (30000, 1001), 0, (1, 1), 2, 2, ())
STEP = Fraction(1001, 30000)


def encode(
    kind: VideoType, frames: list[Frame], header: ClipHeader = HEADER, times: list[Fraction] | None = None
) -> bytes:
    height, width, _ = frames[0].shape
    encoder = ClipEncoder(kind, ClipHeader(**{**vars(header), "width": width, "height": height}), 1 << 24)
    for number, pixels in enumerate(frames):
        encoder.add(TimedFrame(pixels, times[number] if times else number * STEP, STEP))
    return encoder.finish()


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), count=st.integers(1, 4))
def test_matroska_keeps_every_bit_at_every_size(height: int, width: int, count: int) -> None:
    frames = noise_frames(count, height, width)
    got, _ = decoded(encode("video/x-matroska", frames))
    assert len(got) == count
    assert all(np.array_equal(one, other) for one, other in zip(got, frames, strict=True))


@pytest.mark.parametrize("kind", ["video/mp4", "video/x-matroska"])
@pytest.mark.parametrize(("height", "width"), [(2, 16384), (16384, 2), (9001, 1), (1000, 15)])
def test_long_and_thin_frames_can_be_written(kind: VideoType, height: int, width: int) -> None:
    got, _ = decoded(encode(kind, gradient_frames(2, height, width)))
    assert [frame.shape for frame in got] == [(height, width, 3)] * 2


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (48, 63), (1, 1), (3, 2)])
def test_mp4_keeps_the_size_and_nearly_the_pixels(height: int, width: int) -> None:
    frames = gradient_frames(5, height, width)
    data = encode("video/mp4", frames)
    got, times = decoded(data)
    assert got[0].shape == (height, width, 3)
    assert times == [k * STEP for k in range(5)]
    assert max(np.abs(one.astype(int) - other).mean() for one, other in zip(got, frames, strict=True)) < 6
    assert data.index(b"moov") < data.index(b"mdat"), "players start before they have it all"
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.pix_fmt == ("yuv420p" if height % 2 == width % 2 == 0 else "yuv444p")
        assert stream.codec_context.colorspace == 1, "BT.709"
        assert stream.duration is not None
        assert stream.duration * stream.time_base == 5 * STEP


def test_pixels_that_are_not_square_and_the_colours_meaning_are_kept() -> None:
    header = ClipHeader(**{**vars(HEADER), "pixel_aspect": (4, 3), "primaries": 9, "transfer": 16})
    with av.open(io.BytesIO(encode("video/mp4", gradient_frames(2), header))) as file:
        stream = file.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert (stream.codec_context.color_primaries, stream.codec_context.color_trc) == (9, 16)


def test_what_a_format_changes_is_said() -> None:
    wide = ClipHeader(**{**vars(HEADER), "pixel_aspect": (4, 3)})
    assert ClipEncoder("video/mp4", wide, 1000).notes == []
    assert ClipEncoder("video/x-matroska", wide, 1000).notes == ["pixels of 4:3 were written as square ones"]
    odd = ClipHeader(**{**vars(HEADER), "width": 63})
    assert "4:4:4" in ClipEncoder("video/mp4", odd, 1000).notes[0]


def test_uneven_timestamps_are_kept() -> None:
    times = [Fraction(k, 1000) for k in (0, 40, 50, 400, 401, 1000)]
    header = ClipHeader(**{**vars(HEADER), "time_base": (1, 1000)})
    for kind in ("video/mp4", "video/x-matroska"):
        _, got = decoded(encode(kind, gradient_frames(6), header, times))
        assert [time - got[0] for time in got] == times


def test_the_longest_pauses_and_the_finest_steps_can_be_written() -> None:
    header = ClipHeader(**{**vars(HEADER), "time_base": (1, 10**9), "rate": (1, 10**9)})
    times = [Fraction(3600 * k) for k in range(24)]
    got, stamps = decoded(encode("video/mp4", gradient_frames(24), header, times))
    assert [time - stamps[0] for time in stamps] == times
    assert len(got) == 24


def test_frames_too_close_for_the_format_are_not_lost() -> None:
    times = [Fraction(k, 90_000) for k in range(6)]
    got, stamps = decoded(encode("video/x-matroska", noise_frames(6), HEADER, times))
    assert len(got) == 6
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("kind", ["video/mp4", "video/x-matroska"])
def test_a_clip_over_the_cap_is_an_error_and_not_half_a_clip(kind: VideoType) -> None:
    encoder = ClipEncoder(kind, HEADER, 5000)
    with pytest.raises(TooLarge, match="over 5000 bytes"):  # noqa: PT012  # encoders write late, so any call may be it
        for number, pixels in enumerate(noise_frames(30, 48, 64)):
            encoder.add(TimedFrame(pixels, number * STEP, STEP))
        encoder.finish()
