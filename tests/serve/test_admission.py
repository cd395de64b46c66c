"""How much may be in flight, and the advice when it is too much."""

import pytest

from serve.admission import Admission
from serve.errors import Overloaded


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_cap_counts_pictures_and_frees_them() -> None:
    admission = Admission(4, 100, Clock())
    admission.admit(3)
    with pytest.raises(Overloaded, match="3 pictures are in flight and 2 more came, the limit is 4") as caught:
        admission.admit(2)
    assert caught.value.headers == {"Retry-After": "1"}
    admission.admit(1)
    admission.release(3, 3)
    admission.admit(3)
    assert admission.in_flight == 4


def test_retry_after_follows_the_measured_throughput() -> None:
    clock = Clock()
    admission = Admission(100, 100, clock)
    admission.admit(10)
    clock.now += 5.0  # ten pictures in five busy seconds: two a second
    admission.release(10, 10)
    clock.now += 3600.0  # idle time says nothing about speed
    admission.admit(40)
    assert admission.retry_after_s() == 20
    clock.now += 1000.0  # nothing finished for long: the advice is bounded
    assert admission.retry_after_s() == 60


def test_buffered_bytes_are_bounded() -> None:
    admission = Admission(1, 100, Clock())
    admission.buffer(80)
    with pytest.raises(Overloaded, match="80 bytes of request bodies are held and 30 more came, the limit is 100"):
        admission.buffer(30)
    admission.unbuffer(80)
    admission.buffer(30)
