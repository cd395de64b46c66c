"""JPEGs decoded without Pillow give the pixels and the errors that Pillow gives, whatever is wrong with them."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve import jpeg
from serve.decoding import ImageLimits, decode
from serve.errors import RequestError
from skipvit.transforms import Preprocessing
from tests.serve.servers import encoded

pytest.importorskip("simplejpeg", reason="there is no wheel of it for this machine")

LIMITS = ImageLimits()
RULE = Preprocessing(height=9, width=11, crop_pct=0.9, interpolation="bicubic")
# A part of a picture in its own size is cut out, and is not resized.
WHOLE = Preprocessing(height=30, width=40, crop_pct=1.0)
SAVED = st.fixed_dictionaries(
    {"quality": st.integers(1, 100)},
    optional={
        "subsampling": st.integers(0, 2),
        "progressive": st.just(True),
        "optimize": st.just(True),
        "restart_marker_rows": st.integers(1, 3),
        "dpi": st.just((72, 72)),
        "comment": st.binary(max_size=20),
        "exif": st.integers(0, 9).map(lambda orientation: oriented(orientation)),
    },
)


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def both(data: bytes, rule: Preprocessing) -> tuple[Any, Any]:
    """What comes of ``data`` as it is, and where Pillow decodes everything: pixels, or the error as clients see it."""
    with pytest.MonkeyPatch.context() as patch:
        found = _answer(data, rule)
        patch.setattr(jpeg, "why_not", lambda: "Pillow is the oracle")
        return found, _answer(data, rule)


def _answer(data: bytes, rule: Preprocessing) -> Any:
    try:
        return decode(data, rule, LIMITS).tolist()
    except RequestError as error:
        return error.as_dict()


@given(
    st.integers(1, 70), st.integers(1, 50), st.sampled_from(["RGB", "L", "CMYK"]), SAVED, st.sampled_from([RULE, WHOLE])
)
def test_pixels_are_pillows(width: int, height: int, mode: str, saved: dict[str, Any], rule: Preprocessing) -> None:
    found, expected = both(encoded(picture(width, height, mode), "JPEG", **saved), rule)
    assert found == expected


@given(st.data(), st.booleans())
def test_broken_files_are_what_pillow_makes_of_them(data: st.DataObject, progressive: bool) -> None:
    """Bytes changed, left out and cut off, in headers and coefficients alike."""
    file = bytearray(encoded(picture(40, 30), "JPEG", progressive=progressive))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(file) - 1))
        file[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    broken = bytes(file[: data.draw(st.integers(len(file) // 2, len(file)))])
    found, expected = both(broken, RULE)
    assert found == expected


def test_a_picture_of_its_models_size_is_left_alone() -> None:
    found, expected = both(encoded(picture(40, 30), "JPEG"), WHOLE)
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {"exif": oriented(6)}), ("JPEG", {"keep_rgb": True})]
)
def test_pillow_decodes_what_is_not_an_upright_jpeg_in_ycbcr(kind: str, options: dict[str, Any]) -> None:
    data = encoded(picture(20, 10), kind, **options)
    assert jpeg.pixels_of(data, Image.open(io.BytesIO(data))) is None


def test_an_ordinary_jpeg_is_not_left_to_pillow() -> None:
    data = encoded(picture(20, 10), "JPEG")
    found = jpeg.pixels_of(data, Image.open(io.BytesIO(data)))
    assert found is not None
    assert found.shape == (10, 20, 4)


def test_it_says_who_decodes_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jpeg.description().startswith("JPEGs are decoded by simplejpeg ")
    monkeypatch.setenv("SKIPVIT_DECODING", "pillow")
    monkeypatch.setattr(jpeg, "why_not", jpeg.why_not.__wrapped__)
    assert jpeg.description() == "JPEGs are decoded by Pillow: SKIPVIT_DECODING says so"
    monkeypatch.delenv("SKIPVIT_DECODING")
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert jpeg.description() == "JPEGs are decoded by Pillow: simplejpeg is not installed"


def test_another_decoder_than_pillows_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = jpeg._decoded

    def otherwise(data: bytes, size: tuple[int, int]) -> Any:
        found = decoded(data, size)
        return None if found is None else found ^ 1

    monkeypatch.setattr(jpeg, "_decoded", otherwise)
    assert jpeg.why_not.__wrapped__() == "simplejpeg gives other pixels than this Pillow"
