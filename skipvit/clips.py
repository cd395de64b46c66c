"""Clips of any length through a model that takes a fixed number of frames, with one window of frames in memory.

A window is ``frames`` consecutive frames. Of what the model gives back for them, the first ``lead`` and the last
``lag`` are context only, so neighbouring windows overlap by lead + lag. At the clip's ends there is nothing to overlap
with, and all is kept; the last window is moved back to end with the clip. A clip shorter than a window is continued by
reflection in time: 0 1 2 becomes 0 1 2 1 0. Every frame of the clip is kept exactly once, in order.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Window:
    """Which frames of a clip a window holds, and which of its outputs are kept.

    ``places`` has the clip's frame number for each of the window's places. ``kept`` are the places whose outputs are
    kept; they belong to the clip's frames ``first``, ``first + 1`` and so on.
    """

    places: tuple[int, ...]
    kept: slice
    first: int

    @property
    def count(self) -> int:
        """How many frames this window finishes."""
        return int(self.kept.stop - self.kept.start)


def plan_windows(n_frames: int, frames: int, lead: int = 0, lag: int = 0) -> list[Window]:
    """The windows over a clip of ``n_frames``; none for an empty clip.

    Args:
        frames: length of a window.
        lead: places at a window's start whose outputs are dropped, save at the start of the clip.
        lag: places at a window's end whose outputs are dropped, save at the end of the clip; 0 for a causal model.

    Raises:
        ValueError: a window of that length would keep nothing, or a number is negative.
    """
    if n_frames < 0:
        raise ValueError(f"a clip cannot have {n_frames} frames")
    return [window for window, _ in slide(range(n_frames), frames, lead, lag)]


def slide(clip: Iterable[Frame], frames: int, lead: int = 0, lag: int = 0) -> Iterator[tuple[Window, list[Frame]]]:
    """Each window over a clip and the frames in its places, as soon as they have come.

    No more than ``frames`` frames are held besides the one that is read, so the length of the clip need not be known.
    Arguments and errors are those of `plan_windows`.
    """
    if lead < 0 or lag < 0 or lead + lag >= frames:
        raise ValueError(
            f"a window of {frames} frames with {lead} of lead and {lag} of lag keeps none; "
            "it needs lead >= 0, lag >= 0 and lead + lag < frames"
        )
    return _slide(clip, frames, lead, lag)


def _slide(clip: Iterable[Frame], frames: int, lead: int, lag: int) -> Iterator[tuple[Window, list[Frame]]]:
    held: deque[Frame] = deque(maxlen=frames)
    read = done = start = 0
    for frame in clip:
        if read == start + frames:  # the window is full and the clip goes on, so this window is not the last
            stop = start + frames - lag
            yield Window(tuple(range(start, read)), slice(done - start, stop - start), done), list(held)
            start, done = start + frames - lead - lag, stop
        held.append(frame)
        read += 1
    if read == 0:
        return
    start = max(0, read - frames)
    places = tuple(reflect(place, read) for place in range(start, start + frames))
    yield Window(places, slice(done - start, read - start), done), [held[place - start] for place in places]


def reflect(index: int, n: int) -> int:
    """A frame number outside 0..n-1 reflected at the first and the last frame, which are not repeated."""
    if n == 1:
        return 0
    index %= 2 * (n - 1)
    return min(index, 2 * (n - 1) - index)
