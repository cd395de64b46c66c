"""Clips that are damaged, hostile or over a limit: a plain error of the process that decodes them."""

import io
import os
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serve.errors import BadVideo, TooLarge
from serve.video.frames import VideoLimits
from tests.serve.clip_reading import LIMITS, error_of, read
from tests.serve.clips import (
    changing_size,
    clip,
    from_packets,
    gradient_frames,
    million_frames,
    noise_frames,
    packets_of,
    sound_only,
)


@pytest.mark.parametrize("rate", [251, 1000, 100_000])
def test_absurd_frame_rates_are_refused(rate: int) -> None:
    error = error_of(clip(gradient_frames(4), "mp4", "libx264", "yuv420p", rate=rate))
    assert (error.status, error.code) == (400, "bad_frame_rate")
    assert str(rate) in error.message or f"{rate:g}" in error.message
    assert "250" in error.message


@pytest.mark.parametrize("field", [0, 4], ids=["scale", "rate"])
def test_a_frame_rate_of_zero_is_refused(field: int) -> None:
    data = bytearray(clip(gradient_frames(4), "avi", "mpeg4", "yuv420p"))
    at = data.index(b"vids") + 20 + field
    data[at : at + 4] = bytes(4)
    error = error_of(bytes(data))
    assert (error.status, error.code) == (400, "bad_frame_rate")


def test_timestamps_days_apart_are_refused() -> None:
    data = clip(gradient_frames(2), stamps=[0, 100_000], time_base=Fraction(1))
    assert error_of(data).code in ("bad_timestamps", "bad_frame_rate")


@pytest.mark.parametrize(("seconds", "code"), [(3600, None), (3601, "bad_timestamps")])
def test_a_pause_longer_than_players_can_hold_is_refused(seconds: int, code: str | None) -> None:
    data = clip(noise_frames(3), stamps=[0, 1000, 1000 * (seconds + 1)], time_base=Fraction(1, 1000))
    if code is None:
        assert [frame.time for frame in read(data)[1]] == [0, 1, seconds + 1]
    else:
        assert error_of(data).code == code


def test_frames_too_long_to_be_written_again_are_refused() -> None:
    error = error_of(clip(noise_frames(1, 2, 16386), "avi", "rawvideo", "bgr24"))
    assert (error.status, error.code) == (413, "video_too_large")
    assert "16384 along a side" in error.message


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_video"),
        (b"no clip at all", "not_a_video"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "not_a_video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_a_video"),
        (b"<?xml version='1.0'?><MPD/>", "not_a_video"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "not_a_video"),
        (b"RIFF\x24\0\0\0AVI LIST" + bytes(28), "bad_video"),
        (b"\x1a\x45\xdf\xa3", "truncated_video"),
        (b"\0\0\0\x10ftypisom\0\0\2\0", "truncated_video"),
        (b"\0\0\0\x10ftypisom\0\0\2\0\0\0\0\x08moov", "no_video"),
        (b"\0\0\0\x10ftypisom\0\0\2\0\0\0\0\x03moov", "bad_video"),
    ],
)
def test_what_is_no_clip_is_refused(data: bytes, code: str) -> None:
    error = error_of(data)
    assert (error.status, error.code) == (400, code)


def test_pictures_are_sent_to_the_other_route() -> None:
    for format in ("PNG", "JPEG", "WEBP", "GIF"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, format)
        error = error_of(buffer.getvalue())
        assert error.code == "not_a_video"
        assert "/v1/denoise" in error.hint


@pytest.mark.parametrize(
    ("format", "codec", "layout", "options"),
    [
        ("mp4", "libx264", "yuv420p", {}),
        ("matroska", "ffv1", "bgr0", {}),
        ("avi", "mpeg4", "yuv420p", {}),
    ],
)
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.999])
def test_a_clip_that_is_cut_short_is_refused(
    format: str, codec: str, layout: str, options: dict[str, str], keep: float
) -> None:
    data = clip(noise_frames(8), format, codec, layout, options=options)
    error = error_of(data[: int(len(data) * keep)])
    assert (error.status, error.code) == (400, "truncated_video")


def test_no_frame_and_no_picture() -> None:
    assert error_of(sound_only()).code == "no_video"
    frame = noise_frames(1)[0]
    assert error_of(from_packets([], frame, "ffv1", "bgr0")).status == 400


def test_codecs_outside_the_list_are_refused() -> None:
    error = error_of(clip(noise_frames(3), "avi", "flv", "yuv420p"))
    assert (error.status, error.code) == (400, "wrong_codec")
    assert "H.264" in error.hint
    assert "flv" in error.message


def test_a_size_that_changes_is_refused() -> None:
    error = error_of(changing_size())
    assert (error.status, error.code) == (400, "size_changes")
    assert "48 x 32" in error.message
    assert "16 x 16" in error.message


def test_limits_hold_at_their_very_edge() -> None:
    frames = noise_frames(6)
    fits = VideoLimits(max_frames=6, max_frame_pixels=24 * 32, max_pixels=6 * 24 * 32)
    assert len(read(clip(frames), fits)[1]) == 6
    for name in ("max_frames", "max_frame_pixels", "max_pixels"):
        tight = VideoLimits(**{**vars(fits), name: getattr(fits, name) - 1})
        error = error_of(clip(frames), tight)
        assert error.status == 413
        assert str(getattr(tight, name)) in error.message


def test_a_huge_frame_is_refused_by_its_header() -> None:
    data = clip(noise_frames(1, 300, 300))
    width, height = b"\xb0\x82\x01\x2c", b"\xba\x82\x01\x2c"  # PixelWidth and PixelHeight, 300
    assert data.count(width + height) == 1
    error = error_of(data.replace(width + height, b"\xb0\x82\x0b\xb8\xba\x82\x0b\xb8"))
    assert (error.status, error.code) == (413, "video_too_large")
    assert "3000 x 3000" in error.message
    # Where the first frame is over all bounds, FFmpeg gives up before it says how large that is.
    assert error_of(data.replace(width + height, b"\xb0\x82\x4e\x20\xba\x82\x4e\x20")).status in (400, 413)


def test_an_index_of_ten_million_frames_costs_no_memory() -> None:
    data = million_frames()
    assert len(data) < 20_000
    error = error_of(data, VideoLimits(max_frames=40, memory_bytes=400 << 20))
    assert error.status in (400, 413)


def test_a_file_of_too_many_frames_is_left_early() -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    _, [packet] = packets_of(frame, "mjpeg", "yuvj420p")
    data = from_packets([packet] * 20_000, frame, "mjpeg", "yuvj420p")
    error = error_of(data)
    assert (error.status, error.code) == (413, "too_many_frames")


def test_packets_without_frames_are_counted_too() -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    error = error_of(from_packets([b"\0"] * 5000, frame, "mjpeg", "yuvj420p"))
    assert error.status in (400, 413)


@pytest.mark.skipif(os.name != "posix", reason="CPU time is limited by POSIX systems only")
def test_decoding_has_a_limit_of_computing_time() -> None:
    frame = noise_frames(1, 1000, 1500)[0]
    _, [packet] = packets_of(frame, "mjpeg", "yuvj420p")
    data = from_packets([packet] * 300, frame, "mjpeg", "yuvj420p")
    error = error_of(data, VideoLimits(max_pixels=1 << 40, cpu_s=1.0))
    assert (error.status, error.code) == (413, "video_too_slow")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damage_anywhere_gives_frames_or_a_plain_error(data: st.DataObject) -> None:
    format, codec, layout = data.draw(st.sampled_from([("mp4", "libx264", "yuv420p"), ("matroska", "ffv1", "bgr0")]))
    damaged = bytearray(clip(gradient_frames(4, 32, 32), format, codec, layout))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    frames = []
    with suppress(BadVideo, TooLarge):
        frames = read(bytes(damaged))[1]
        assert frames
    assert len(frames) <= LIMITS.max_frames
