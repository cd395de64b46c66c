"""Frames to a file that a server takes and that keeps every bit: FFV1 in Matroska."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from skipvit.transforms import Pixels

RATE = 24  # frames a second; the pans have no speed of their own


def can_write() -> bool:
    """Whether PyAV is installed, which the extra ``video`` brings."""
    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def write_clip(path: Path, frames: Iterable[Pixels]) -> None:
    """Writes frames (H, W, 3) uint8, all of one size and one at least."""
    import av

    rest = iter(frames)
    first = next(rest)
    with av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=RATE)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "bgr0"
        for pixels in chain([first], rest):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(stream.encode())
