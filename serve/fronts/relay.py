"""Questions that the supervisor has passed on to the engine's process, and who is to have the answers."""

from collections.abc import Callable
from itertools import count

from serve.fronts.control import NUMBER


class Relay:
    """Gives each question a number of its own: those of several fronts may be the same."""

    def __init__(self) -> None:
        self._numbers = count()
        self._open: dict[int, Callable[[bytes], object]] = {}

    def key(self, give: Callable[[bytes], object]) -> bytes:
        """The number to ask under; ``give`` is called with the answer."""
        number = next(self._numbers) % (1 << 32)
        self._open[number] = give
        return NUMBER.pack(number)

    def answer(self, message: bytes) -> None:
        """Takes an answer, whose number comes first."""
        give = self._open.pop(NUMBER.unpack_from(message)[0], None)
        if give is not None:
            give(message[NUMBER.size :])

    def give_up(self, answer: bytes) -> None:
        """Answers everything that is open: whoever was asked is gone."""
        for number in list(self._open):
            self._open.pop(number)(answer)
