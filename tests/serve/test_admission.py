"""How much may be in flight, and the advice when it is too much, by a clock that the test holds."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.admission import Admission, Places, taken
from serve.errors import Overloaded
from serve.models.settings import ModelSettings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def advice(places: Places, count: int = 1) -> int:
    """The Retry-After of ``count`` pictures that are refused."""
    with pytest.raises(Overloaded) as caught:
        places.check(count)
    return int(caught.value.headers["Retry-After"])


def serve(places: Places, clock: Clock, count: int, seconds_each: float, at_a_time: int) -> None:
    """Has ``at_a_time`` in flight, of which one is done every ``seconds_each``, until ``count`` are."""
    places.admit(at_a_time)
    for _ in range(count - at_a_time):
        clock.now += seconds_each
        places.release(1, 1)
        places.admit(1)
    for _ in range(at_a_time):
        clock.now += seconds_each
        places.release(1, 1)


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


def test_retry_after_is_of_what_is_full() -> None:
    """A slow model beside a fast one: each is measured by its own pictures, and the route by both."""
    clock = Clock()
    own = {name: ModelSettings(max_in_flight=4) for name in ("slow", "fast")}
    admission = Admission(5, 100, clock, models=own)
    (slow,), (fast,) = admission.of("slow"), admission.of("fast")
    assert admission.of("other") == ()
    serve(slow, clock, 20, seconds_each=2.0, at_a_time=4)
    serve(fast, clock, 20, seconds_each=0.5, at_a_time=4)
    slow.admit(4)
    fast.admit(4)
    assert (advice(slow), advice(fast)) == (8, 2)
    serve(admission, clock, 50, seconds_each=1.0, at_a_time=5)
    admission.admit(5)
    assert advice(admission) == 5


def test_a_picture_takes_a_place_of_each_or_of_none() -> None:
    clock = Clock()
    admission = Admission(9, 100, clock, models={"digits": ModelSettings(max_in_flight=1)})
    places = (admission, *admission.of("digits"))
    with taken(1, *places):
        with pytest.raises(Overloaded, match="1 pictures for model 'digits' are in flight"), taken(1, *places):
            pass
        assert [one.in_flight for one in places] == [1, 1]
    assert [one.in_flight for one in places] == [0, 0]


def test_places_are_given_back_whatever_happens_and_only_answers_count() -> None:
    clock = Clock()
    places = Places(3, "pictures", clock)

    def fail() -> None:
        with taken(2, places):
            clock.now += 1.0
            raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        fail()
    assert places.in_flight == 0
    places.admit(3)
    assert advice(places) == 1, "nothing was answered yet"


def test_buffered_bytes_are_bounded() -> None:
    admission = Admission(1, 100, Clock())
    admission.buffer(80)
    with pytest.raises(Overloaded, match="80 bytes of request bodies are held and 30 more came, the limit is 100"):
        admission.buffer(30)
    admission.unbuffer(80)
    admission.buffer(30)


# --- with a target ---


@settings(max_examples=30)
@given(st.floats(0.01, 1.0), st.integers(2, 8), st.floats(0.01, 5.0))
def test_with_a_target_as_many_are_admitted_as_are_done_within_it(each_s: float, floor: int, target_s: float) -> None:
    clock = Clock()
    places = Places(math.inf, "pictures", clock, target_s, floor)
    serve(places, clock, 60, each_s, at_a_time=floor)
    admitted = 0
    while admitted < 100:
        try:
            places.admit(1)
        except Overloaded:
            break
        admitted += 1
    in_time = target_s / each_s
    assert admitted == pytest.approx(max(floor, min(100, in_time)), abs=max(2.0, 0.05 * in_time))


def test_what_a_target_refuses_says_why() -> None:
    clock = Clock()
    places = Places(math.inf, "pictures", clock, 0.5, 2)
    serve(places, clock, 50, seconds_each=0.1, at_a_time=2)
    places.admit(4)
    with pytest.raises(Overloaded, match="4 pictures are in flight and 2 more would not be done within the target of"):
        places.admit(2)


def test_nothing_measured_yet_lets_as_many_in_as_there_are_threads() -> None:
    places = Places(math.inf, "pictures", Clock(), 0.5, 3)
    places.admit(3)
    with pytest.raises(Overloaded):
        places.admit(1)


def test_a_request_of_many_alone_is_never_too_much_for_a_target() -> None:
    """Otherwise it could never be answered, however often it came back."""
    clock = Clock()
    places = Places(16, "pictures", clock, 0.1, 2)
    serve(places, clock, 50, seconds_each=0.1, at_a_time=2)
    places.admit(16)
    assert places.in_flight == 16


def test_light_load_does_not_make_the_server_look_slow() -> None:
    """One at a time it does 10 a second, four at a time 40: the target of a second is good for 40 in flight."""
    clock = Clock()
    places = Places(math.inf, "pictures", clock, 1.0, 4)
    serve(places, clock, 60, seconds_each=0.025, at_a_time=4)
    serve(places, clock, 60, seconds_each=0.1, at_a_time=1)
    for _ in range(36):
        places.admit(1)
