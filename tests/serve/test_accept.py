"""Content negotiation as RFC 9110 has it."""

import pytest

from serve.errors import NotAcceptable
from serve.web.accept import acceptable

PNG, JPEG, WEBP = OFFERED = ["image/png", "image/jpeg", "image/webp"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", OFFERED),
        ("*/*", OFFERED),
        ("image/*", OFFERED),
        ("image/jpeg", [JPEG]),
        ("IMAGE/JPEG ; Q=0.5", [JPEG]),
        ("image/webp, image/jpeg", [JPEG, WEBP]),
        ("image/webp, image/jpeg;q=0.9", [WEBP, JPEG]),
        ("image/jpeg;q=0.2, image/*;q=0.8", [PNG, WEBP, JPEG]),
        ("*/*;q=0.1, image/webp", [WEBP, PNG, JPEG]),
        ("image/png;q=0, */*", [JPEG, WEBP]),
        ("text/html,image/avif,image/webp,image/apng,*/*;q=0.8", [WEBP, PNG, JPEG]),  # what browsers send
        ("image/png;q=x, image/jpeg", [JPEG]),
        ("nonsense, image/jpeg", [JPEG]),
        ("image/jpeg;q=0.5, image/jpeg", [JPEG]),
        (", ,image/webp,", [WEBP]),
    ],
)
def test_the_best_comes_first(accept: str, expected: list[str]) -> None:
    assert acceptable(accept, OFFERED) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/avif", "image/*;q=0", "*/*;q=0.0", "nonsense", "audio/*", ";"])
def test_nothing_that_can_be_made(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="makes image/png, image/jpeg, image/webp") as caught:
        acceptable(accept, OFFERED)
    assert caught.value.status == 406


def test_a_huge_header_is_cut() -> None:
    assert acceptable("text/x," * 60 + PNG, OFFERED) == [PNG]
    with pytest.raises(NotAcceptable):
        acceptable("text/x," * 100 + PNG, OFFERED)
