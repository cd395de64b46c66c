"""When the frames of a clip are shown: its timestamps where they make sense, and one frame later where they do not."""

from fractions import Fraction

from av.video.frame import VideoFrame

from serve.errors import BadVideo
from serve.video.container import bad_frame_rate

_LONGEST_CLIP_S = 86_400
# Four of these, as many frames as H.264 reorders, still fit MP4's 31 bits of 1/90000 s.
_LONGEST_PAUSE_S = 3600


class Clock:
    """Turns timestamps into times from the clip's start, and stands in for those that cannot be."""

    def __init__(self, rate: Fraction, time_base: Fraction | None, what: str) -> None:
        self.rate = rate
        self.repaired = 0
        self._base = time_base or Fraction(0)
        self._what = what
        self._start: Fraction | None = None
        self._last: Fraction | None = None

    def tell(self, frame: VideoFrame) -> tuple[Fraction, Fraction]:
        """Time and duration of the next frame, in seconds from the first one."""
        duration = max(Fraction(0), (frame.duration or 0) * self._base)
        stamp = None if frame.pts is None else frame.pts * self._base
        if self._last is None:
            self._start, time = stamp, Fraction(0)
        elif stamp is not None and self._start is not None and stamp - self._start > self._last:
            time = stamp - self._start
        else:
            time = self._stand_in()
        if time > _LONGEST_CLIP_S:
            raise self._bad_timestamps(f"comes {float(time):.0f} s after its start, the limit is {_LONGEST_CLIP_S} s")
        pause = max(duration, time - (self._last or 0))
        if pause > _LONGEST_PAUSE_S:
            raise self._bad_timestamps(f"is {float(pause):.0f} s from the next, the limit is {_LONGEST_PAUSE_S} s")
        self._last = time
        return time, duration

    def _stand_in(self) -> Fraction:
        if not self.rate:
            raise bad_frame_rate(self._what, "no frame rate, and frames without usable timestamps")
        assert self._last is not None
        self.repaired += 1
        return self._last + 1 / self.rate

    def _bad_timestamps(self, what_it_does: str) -> BadVideo:
        return BadVideo(
            "bad_timestamps",
            f"a frame of {self._what} {what_it_does}",
            "write it again with new timestamps, for example: ffmpeg -i CLIP -r 25 clip.mp4",
        )
