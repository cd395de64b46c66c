"""Rows in memory that a front and the engine's process share: slots of one size, owned by the front.

A front fills a free slot with the model's input, tells the engine its number, and has it back when the engine says
that it is done with it; no lock is shared, and no row is ever sent. The memory has no name (memfd_create): it is gone
with the last process that holds it. Linux only.
"""

import fcntl
import mmap
import os

import numpy as np

from skipvit.transforms import Pixels

_ALIGNED = 64  # a cache line, so that no two slots share one


def aligned(size: int) -> int:
    """``size`` bytes, rounded up to where the next array may begin."""
    return -(-size // _ALIGNED) * _ALIGNED


class Ring:
    """``count`` slots of ``slot_bytes``, and for each a flag that its answer is no longer wanted.

    Pages are taken from the system when they are first written, so slots that are never used cost nothing.
    """

    def __init__(self, fd: int, count: int, slot_bytes: int) -> None:
        """Maps the memory behind ``fd``, which it keeps.

        Raises:
            ValueError: the memory has another size.
        """
        flags = aligned(count)
        stride = aligned(slot_bytes)
        if os.fstat(fd).st_size != flags + count * stride:
            raise ValueError(f"{count} slots of {slot_bytes} bytes do not fill {os.fstat(fd).st_size} bytes")
        self.fd = fd
        self.count = count
        self.slot_bytes = slot_bytes
        # Unmapped when the last view of it is gone: an engine may still be reading a row of a front that died.
        memory = np.frombuffer(mmap.mmap(fd, flags + count * stride), np.uint8)
        self._flags = memory[:count]
        self._slots = memory[flags:].reshape(count, stride)[:, :slot_bytes]

    @classmethod
    def create(cls, count: int, slot_bytes: int) -> "Ring":
        """A ring in new memory, whose size nobody can change."""
        fd = os.memfd_create("skipvit-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, aligned(count) + count * aligned(slot_bytes))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(fd, count, slot_bytes)

    def slot(self, number: int) -> Pixels:
        """The bytes of a slot, (slot_bytes,) uint8, to be read and written."""
        return self._slots[number]

    def abandon(self, number: int) -> None:
        """Says that the answer in a slot is not wanted any more."""
        self._flags[number] = 1

    def renew(self, number: int) -> None:
        """Takes that back, before the slot is used again."""
        self._flags[number] = 0

    def is_abandoned(self, number: int) -> bool:
        """Whether the answer in a slot is not wanted any more."""
        return bool(self._flags[number])

    def close(self) -> None:
        """Closes the file; the memory stays as long as there are views of it."""
        os.close(self.fd)
