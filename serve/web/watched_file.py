"""Files that operators replace while the server runs: looked at now and then, read again when they changed."""

import time
from collections.abc import Callable
from pathlib import Path

_LOOK_EVERY_S = 1.0


class WatchedFiles:
    """Says when any of some files has changed; to look costs one system call a file, at most once a second."""

    def __init__(self, *files: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._looked = clock()
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether a file is another than when this was last said. What is read after it is at least as new."""
        now = self._clock()
        if now - self._looked < _LOOK_EVERY_S:
            return False
        self._looked = now
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_signature(file) for file in self._files]


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:  # gone, or for a moment while it is replaced
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
