"""Decoding in a process of its own: what hostile bytes can take from it is memory and time with a limit on both.

The child reads one line of JSON (limits, and how to call the clip) and the clip's bytes from its standard input, and
writes to its standard output, each message a line of JSON: the header; for each frame its time, followed by its
pixels; the notes at the end; or an error. It holds one frame at a time, and blocks while nobody reads. Its limits are
those that the system keeps (memory, CPU time, no files written); on systems without them it still is another process.

The parent believes nothing: it counts frames and pixels again, and a child that dies is a clip that cannot be decoded.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from serve.errors import BadVideo, RequestError, TooLarge, internal_error
from serve.video.frames import ClipHeader, TimedFrame, VideoLimits

logger = logging.getLogger(__name__)

_MAX_LINE = 1 << 16
_EXIT_WITHIN_S = 5.0
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP")
_OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)  # Windows has no such signal, and sets no such limit
_ERRORS: dict[int, type[RequestError]] = {400: BadVideo, 413: TooLarge}


class ClipReader:
    """A clip being decoded by a child process, which lives as long as the context that this is.

    Used by one thread; only ``kill`` may be called from another. ``begin`` and iterating raise BadVideo where the bytes
    are no clip that can be read, and TooLarge where it is over a limit.
    """

    def __init__(self, limits: VideoLimits, what: str) -> None:
        self._limits = limits
        self._what = what
        self.notes: list[str] = []
        self._killed = False
        self._child = subprocess.Popen(
            [sys.executable, "-m", "serve.video.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )

    def begin(self, data: bytes) -> ClipHeader:
        """Hands the clip over, waits until its first frame is decoded, and returns what is known by then."""
        self._send(data)
        message = self._receive()
        self._header = ClipHeader(**{**message, "notes": tuple(message["notes"])})
        if not 0 < self._header.width * self._header.height <= self._limits.max_frame_pixels:
            raise self._given_up()
        return self._header

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def kill(self) -> None:
        """Ends the child, whatever it is doing; who waits for it gets BadVideo."""
        self._killed = True
        self._child.kill()

    def __iter__(self) -> Iterator[TimedFrame]:
        """The frames, and when they are shown; after the last of them ``notes`` says what was changed."""
        shape = (self._header.height, self._header.width, 3)
        size = shape[0] * shape[1] * 3
        for _ in range(self._limits.max_frames + 1):
            message = self._receive()
            if "notes" in message:
                self.notes = [str(note) for note in message["notes"]]
                return
            pixels = np.frombuffer(self._exactly(size), np.uint8).reshape(shape)
            yield TimedFrame(pixels, Fraction(*message["time"]), Fraction(*message["duration"]))
        raise self._given_up()

    def _send(self, data: bytes) -> None:
        assert self._child.stdin is not None
        order = {"limits": asdict(self._limits), "what": self._what}
        with suppress(BrokenPipeError):  # the child died; what it said, or how, is found when it is read from
            self._child.stdin.write(json.dumps(order).encode() + b"\n")
            self._child.stdin.write(data)
            self._child.stdin.close()

    def _receive(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise self._given_up()
        message: dict[str, Any] = json.loads(line)
        if "failure" in message:
            logger.error("decoding a clip failed: %s", message["failure"])
            raise internal_error()
        if "error" in message:
            error = message["error"]
            raise _ERRORS[error.pop("status")](**error)
        return message

    def _exactly(self, size: int) -> bytes:
        assert self._child.stdout is not None
        data = self._child.stdout.read(size)
        if len(data) < size:
            raise self._given_up()
        return data

    def _given_up(self) -> RequestError:
        """What a child that died, or said nonsense, means for the clip."""
        try:
            code = self._child.wait(_EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._child.wait()
        limits = self._limits
        if code == -_OUT_OF_TIME:
            return TooLarge(
                "video_too_slow",
                f"decoding {self._what} took more than {limits.cpu_s:g} s of computing",
                "send a shorter or smaller clip, or one of an older codec such as H.264",
            )
        # Systems that run out of memory kill whoever has most of it.
        if code == _OUT_OF_MEMORY or (code == -signal.SIGKILL and not self._killed):
            return TooLarge(
                "video_too_large",
                f"decoding {self._what} took more than {limits.memory_bytes >> 20} MiB of memory",
                "send a shorter or smaller clip",
            )
        return BadVideo(
            "bad_video",
            f"{self._what} cannot be decoded: the decoder stopped in the middle of it",
            "check that it plays, and convert it, for example: ffmpeg -i CLIP clip.mp4",
        )


def _environment() -> dict[str, str]:
    """What the child needs to find its modules, and none of the server's secrets."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return {**kept, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


# --- the child ---

_OUT_OF_MEMORY = 77


def main() -> int:
    """Decodes what is on standard input; returns the exit code."""
    # Terminals and service managers send these to the whole group. The server finishes what it is working on, and ends
    # this process itself.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    order = json.loads(sys.stdin.buffer.readline())
    limits = VideoLimits(**order["limits"])
    out = sys.stdout.buffer
    try:
        _limit_this_process(limits)
        _decode(sys.stdin.buffer.read(), limits, order["what"], out)
    except RequestError as error:
        _say(out, {"error": {"status": error.status, **error.as_dict()}})
    except MemoryError:
        return _OUT_OF_MEMORY
    except Exception:  # our own mistake, which the server's log should have
        _say(out, {"failure": traceback.format_exc()[-_MAX_LINE // 2 :]})
    return 0


def _decode(data: bytes, limits: VideoLimits, what: str, out: IO[bytes]) -> None:
    from serve.video.decoding import ClipDecoder  # needs PyAV, which a server without video models does without

    clip = ClipDecoder(data, limits, what)
    _say(out, asdict(clip.header))
    for frame in clip:
        times = {"time": frame.time.as_integer_ratio(), "duration": frame.duration.as_integer_ratio()}
        _say(out, times, flush=False)
        out.write(np.ascontiguousarray(frame.pixels).data)
        out.flush()
    _say(out, {"notes": clip.notes})


def _say(out: IO[bytes], message: dict[str, Any], flush: bool = True) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    if flush:
        out.flush()


def _limit_this_process(limits: VideoLimits) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows has none of these
        return
    seconds = max(1, round(limits.cpu_s))
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_CPU, seconds, seconds + 5),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with suppress(OSError, ValueError):  # a system may keep a lower limit already, or know none of the kind
            resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    sys.exit(main())
