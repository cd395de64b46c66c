"""Clips of every kind, through the process that decodes them: right pixels, right times, and a process on its own."""

import io
import os
import re
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from serve.errors import BadVideo
from serve.video.reader import ClipReader
from tests.serve.clip_reading import LIMITS, error_of, read
from tests.serve.clips import (
    clip,
    gradient_frames,
    noise_frames,
)


@pytest.mark.parametrize(("height", "width"), [(24, 32), (1, 1), (17, 33)])
def test_lossless_clips_come_bit_for_bit(height: int, width: int) -> None:
    frames = noise_frames(5, height, width)
    header, got, notes = read(clip(frames))
    assert (header.height, header.width, header.frames) == (height, width, 5)
    assert len(got) == 5
    assert all(np.array_equal(frame.pixels, sent) for frame, sent in zip(got, frames, strict=True))
    assert notes == []


@pytest.mark.parametrize(
    ("format", "codec", "layout"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mov", "mjpeg", "yuvj420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("avi", "rawvideo", "bgr24"),
        ("mp4", "libsvtav1", "yuv420p"),
        ("mp4", "libx265", "yuv420p10le"),
    ],
)
def test_the_usual_kinds_are_read(format: str, codec: str, layout: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no encoder {codec}")
    frames = gradient_frames(6, 64, 96)
    header, got, notes = read(clip(frames, format, codec, layout))
    assert len(got) == 6
    assert [round(float(frame.time) * 25, 1) for frame in got] == [0, 1, 2, 3, 4, 5]
    # Chroma at half the resolution costs a little on a gradient; colours off by a matrix or a range cost far more.
    assert np.abs(got[3].pixels.astype(int) - frames[3]).mean() < 6
    assert Fraction(*header.rate) == 25
    assert notes == (["10 bits a channel were reduced to 8"] if layout.endswith("10le") else [])


def test_uneven_timestamps_are_kept() -> None:
    stamps = [0, 40, 50, 400, 401, 1000]
    data = clip(noise_frames(6), stamps=stamps, time_base=Fraction(1, 1000))
    _, got, notes = read(data)
    assert [frame.time * 1000 for frame in got] == stamps
    assert notes == []


def test_a_clip_that_starts_late_starts_at_zero() -> None:
    _, got, _ = read(clip(noise_frames(3), "mp4", "libx264", "yuv444p", stamps=[100, 101, 102]))
    assert [frame.time * 25 for frame in got] == [0, 1, 2]


def test_frames_that_share_a_timestamp_are_parted() -> None:
    data = clip(noise_frames(4))
    # A SimpleBlock: its name, two bytes of length, track 1, two bytes of time, flags.
    stuck, count = re.subn(
        rb"(\xa3[\x40-\x7f].\x81)..(?=[\0\x80])", lambda block: block[1] + b"\0\0", data, flags=re.DOTALL
    )
    assert count == 4
    _, got, notes = read(stuck)
    assert [frame.time * 25 for frame in got] == [0, 1, 2, 3]
    assert notes == ["3 frames without a usable timestamp were put one frame apart"]
    # Without a frame rate either, there is nothing to go by: DefaultDuration becomes a Void element.
    assert stuck.count(b"\x23\xe3\x83\x84") == 1
    error = error_of(stuck.replace(b"\x23\xe3\x83\x84", b"\xec\x86\0\0"))
    assert (error.status, error.code) == (400, "bad_frame_rate")


def test_slow_motion_and_slides_are_no_absurd_rates() -> None:
    for rate in (Fraction(240), Fraction(1, 5), Fraction(30000, 1001)):
        header, got, _ = read(clip(gradient_frames(4), "mp4", "libx264", "yuv420p", rate=rate))
        assert [frame.time for frame in got] == [k / rate for k in range(4)]
        assert Fraction(*header.rate) == rate


def test_recordings_of_browsers_have_no_rate_and_need_none() -> None:
    stamps = [0, 38, 69, 109, 164, 202, 246, 293, 334, 381, 409, 442, 507, 526, 576, 628]  # milliseconds
    data = clip(noise_frames(16), rate=25, stamps=stamps, time_base=Fraction(1, 1000))
    header, got, notes = read(data.replace(b"\x23\xe3\x83\x84", b"\xec\x86\0\0"))
    assert [frame.time * 1000 for frame in got] == stamps
    assert Fraction(*header.rate) == 0
    assert notes == []


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_frames_are_turned_upright(degrees: int, hflip: bool) -> None:
    frames = gradient_frames(2, 32, 64)
    data = clip(frames, "mp4", "libx264", "yuv444p", rotation=(degrees, hflip, False), options={"crf": "1"})
    with av.open(io.BytesIO(data)) as file:
        angle = next(file.decode(video=0)).rotation  # counter-clockwise, as FFmpeg reads the matrix
    header, got, notes = read(data)
    turned = np.rot90(frames[0], angle // 90)
    if hflip:
        turned = min((turned[:, ::-1], turned[::-1]), key=lambda f: np.abs(f.astype(int) - got[0].pixels).mean())
    assert (header.height, header.width) == turned.shape[:2]
    assert np.abs(got[0].pixels.astype(int) - turned).mean() < 3
    assert notes == ["frames were turned upright"]


def test_sound_is_dropped_and_said() -> None:
    for codec in ("pcm_s16le", "aac"):
        _, got, notes = read(clip(noise_frames(3), sound=codec))
        assert len(got) == 3
        assert notes == ["the sound was dropped"]


def test_killing_ends_the_process_and_whoever_waits_for_it() -> None:
    with ClipReader(LIMITS, "the clip") as reader:
        reader.begin(clip(noise_frames(30)))
        frames = iter(reader)
        next(frames)
        reader.kill()
        with pytest.raises(BadVideo):
            list(frames)
    assert reader._child.returncode is not None


@pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes are a matter of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_leave_the_clip_to_the_server(sent: signal.Signals) -> None:
    with ClipReader(LIMITS, "the clip") as reader:
        reader.begin(clip(noise_frames(30)))
        reader._child.send_signal(sent)
        assert len(list(reader)) == 30


def test_the_process_knows_no_secrets_and_imports_nothing_from_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logging.py").write_text("raise SystemExit('not the standard module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_TOKEN", "secret")
    with ClipReader(LIMITS, "the clip") as reader:
        reader.begin(clip(noise_frames(30)))
        assert "SOME_TOKEN" not in psutil.Process(reader._child.pid).environ()
        assert len(list(reader)) == 30
