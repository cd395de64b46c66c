"""The rules of retrying and of reading headers, by formula, without a clock."""

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipvit.client.answers import read_headers
from skipvit.client.errors import ClientError, NotReady, Overloaded, Refused, Unreachable
from skipvit.client.retrying import Attempts, Retries, parse_retry_after


@given(seconds=st.integers(0, 10**9 - 1))
def test_retry_after_in_seconds(seconds: int) -> None:
    assert parse_retry_after(str(seconds)) == seconds


@given(seconds=st.integers(-(10**6), 10**6), offset=st.integers(-12, 12))
def test_retry_after_as_a_date_counts_from_the_servers_own(seconds: int, offset: int) -> None:
    sent = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    until = (sent + timedelta(seconds=seconds)).astimezone(UTC)
    value = format_datetime(until, usegmt=True)
    assert parse_retry_after(value, format_datetime(sent, usegmt=True), now=0) == max(0, seconds)
    assert parse_retry_after(value, "", now=sent.timestamp() + offset) == max(0, seconds - offset)


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text: str) -> None:
    found = parse_retry_after(text, text, now=0)
    assert found is None or found >= 0


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "9" * 400, "Mon, 99 Foo 2026 00:00:00 GMT", "٣"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_retry_after(text) is None


@given(
    asked=st.none() | st.floats(0, 50),
    retries=st.builds(Retries, st.integers(1, 6), st.floats(0.01, 1), st.floats(1, 8)),
    seed=st.integers(),
)
def test_pauses_are_never_shorter_than_asked_nor_longer_than_the_rule(
    asked: float | None, retries: Retries, seed: int
) -> None:
    attempts = Attempts(retries, 1e9, now=0.0, jitter=random.Random(seed))
    error = Overloaded(429, "overloaded", "busy", retry_after_s=asked)
    for number in range(retries.count):
        pause = attempts.pause_after(error, now=0.0)
        longest = min(retries.longest_s, retries.first_s * 2**number)
        assert (asked or 0) <= pause <= (asked or 0) + longest + 1e-9
    with pytest.raises(Overloaded):
        attempts.pause_after(error, now=0.0)


@given(left=st.floats(0.1, 100), asked=st.floats(0, 200))
def test_no_pause_ends_after_the_deadline(left: float, asked: float) -> None:
    attempts = Attempts(Retries(1), left, now=5.0, jitter=random.Random(0))
    error = NotReady(503, "not_ready", "warming", retry_after_s=asked)
    try:
        assert 5.0 + attempts.pause_after(error, now=5.0) < 5.0 + left
    except NotReady:
        assert asked + Retries().first_s >= left


@pytest.mark.parametrize("error", [Refused(400, "bad", "bad"), Unreachable("no route"), ClientError("other")])
def test_what_stays_wrong_is_raised_at_once(error: ClientError) -> None:
    with pytest.raises(type(error)):
        Attempts(Retries(5), 60).pause_after(error)


def test_headers_of_a_restored_picture() -> None:
    found = read_headers(
        {
            "content-type": "image/PNG; charset=x",
            "x-skipvit-model": "photos/2",
            "x-skipvit-tiles": "12",
            "x-skipvit-note": "16 bits became 8; CMYK became RGB",
            "x-request-id": "abc",
            "server-timing": "read;dur=4.1, decode;desc=x;dur=88, bad;dur=nan, worse;dur=x, none",
        }
    )
    assert found == {
        "media_type": "image/png",
        "model": "photos/2",
        "tiles": 12,
        "notes": ["16 bits became 8", "CMYK became RGB"],
        "request_id": "abc",
        "timing_ms": {"read": 4.1, "decode": 88.0},
    }


@given(st.dictionaries(st.sampled_from(["content-type", "x-skipvit-tiles", "server-timing"]), st.text(max_size=30)))
def test_any_headers_can_be_read(headers: dict[str, str]) -> None:
    assert set(read_headers(headers)) == set(read_headers({}))


def test_formatdate_is_what_servers_send() -> None:
    assert parse_retry_after(formatdate(1_000_010, usegmt=True), formatdate(1_000_000, usegmt=True)) == 10
