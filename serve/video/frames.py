"""What passes between the process that decodes a clip and the server: limits, header and timed frames."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

VideoType = Literal["video/mp4", "video/x-matroska"]
RgbFrame = npt.NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class VideoLimits:
    """What a clip may hold, counted while it is decoded, and what decoding it may take."""

    max_frames: int = 600
    max_frame_pixels: int = 9_000_000
    max_pixels: int = 300_000_000
    memory_bytes: int = 1 << 30
    cpu_s: float = 60.0


@dataclass(frozen=True)
class ClipHeader:
    """What is known of a clip at its first frame. Sizes are in pixels as shown, ratios as (numerator, denominator)."""

    width: int
    height: int
    time_base: tuple[int, int]  # the finest step between timestamps, in seconds
    rate: tuple[int, int]  # average frames/s as far as the container tells, or 0
    frames: int  # as the container claims, or 0: good for a progress bar and nothing else
    pixel_aspect: tuple[int, int]  # width : height of one pixel
    primaries: int  # colour primaries and transfer function by their numbers in ITU-T H.273
    transfer: int
    notes: tuple[str, ...]  # what was dropped or changed


@dataclass(frozen=True)
class TimedFrame:
    """A frame, (height, width, 3) uint8 RGB, shown from ``time`` on, for ``duration``, in seconds (0: unknown)."""

    pixels: RgbFrame
    time: Fraction
    duration: Fraction
