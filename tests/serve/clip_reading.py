"""Clips through the process that decodes them, or the error that they get."""

import pytest

from serve.errors import RequestError
from serve.video.frames import ClipHeader, TimedFrame, VideoLimits
from serve.video.reader import ClipReader

LIMITS = VideoLimits(max_frames=40, max_frame_pixels=100_000, max_pixels=1_000_000)


def read(data: bytes, limits: VideoLimits = LIMITS) -> tuple[ClipHeader, list[TimedFrame], list[str]]:
    with ClipReader(limits, "the clip") as reader:
        header = reader.begin(data)
        frames = list(reader)
        return header, frames, [*header.notes, *reader.notes]


def error_of(data: bytes, limits: VideoLimits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(data, limits)
    assert "the clip" in caught.value.message
    assert len(caught.value.hint) > 10
    return caught.value
