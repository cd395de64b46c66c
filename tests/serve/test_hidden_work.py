"""Small files of few pixels that would cost a decoder hours or gigabytes are refused; honest ones are not."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve import hidden_work
from serve.decoding import ImageLimits, decode
from serve.errors import BadImage, TooLarge
from skipvit.transforms import Preprocessing
from tests.serve.servers import encoded

RULE = Preprocessing(height=8, width=8, resize="squash", interpolation="box")
LIMITS = ImageLimits()
_FEW = bytes((0xFF, 0xDA, 0x00, 0xD9)[byte % 4] for byte in range(256))
_SHORT, _LONG, _SLONG8 = 3, 4, 17


def jpeg_of(scans: int) -> bytes:
    """A progressive JPEG whose last scan, which refines coefficients, is repeated."""
    data = encoded(Image.new("L", (640, 480), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


@pytest.mark.parametrize("tail", [b"", encoded(Image.new("L", (8, 8)), "JPEG")])
def test_a_jpeg_of_many_scans_is_refused(tail: bytes) -> None:
    assert decode(jpeg_of(100) + tail, RULE, LIMITS).shape == (8, 8, 3)
    with pytest.raises(TooLarge, match="more than 100 scans") as caught:
        decode(jpeg_of(101) + tail, RULE, LIMITS)
    assert caught.value.code == "too_many_scans"


def test_scans_that_are_only_metadata_or_follow_the_picture_do_not_count() -> None:
    data = encoded(Image.new("L", (64, 48), 128), "JPEG", comment=b"\xff\xda" * 500)
    assert decode(data + b"\xff\xda" * 500, RULE, LIMITS).shape == (8, 8, 3)


@given(st.binary(max_size=60).map(lambda data: data.translate(_FEW)), st.integers(1, 8))
def test_pairs_are_counted_as_bytes_counts_them(data: bytes, half_a_block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hidden_work, "_BLOCK", 2 * half_a_block)
        assert hidden_work.count_pairs(data, b"\xff\xda") == data.count(b"\xff\xda")


def tiff(tile: tuple[int, int], kind: int = _LONG, order: str = "<", big: bool = False) -> bytes:
    """A grey TIFF of 16 x 16 pixels in one tile of zeros, deflated; its sides are numbers of ``kind``."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(tile[0])) for _ in range(tile[1])) + packer.flush()
    at = 16
    numbers = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile[0], 323: tile[1], 324: at, 325: len(pixels)}
    word = "Q" if big else "I"
    head = struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0) if big else (42,)), at + len(pixels))
    data = ((b"II" if order == "<" else b"MM") + head).ljust(at, b"\0") + pixels
    data += struct.pack(order + ("Q" if big else "H"), len(numbers))
    late = len(data) + len(numbers) * (20 if big else 12) + struct.calcsize(order + word)
    values = b""
    for tag, value in numbers.items():
        of = kind if tag in (322, 323) else _LONG
        field = struct.pack(order + {_SHORT: "H", _LONG: "I", _SLONG8: "q"}[of], value)
        if len(field) > struct.calcsize(order + word):
            values, field = values + field, struct.pack(order + word, late + len(values))
        data += struct.pack(f"{order}HH{word}", tag, of, 1) + field.ljust(struct.calcsize(order + word), b"\0")
    return data + struct.pack(order + word, 0) + values


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # Pillow reads no fourth
@pytest.mark.parametrize("kind", [_SHORT, _LONG])
def test_a_tiff_of_tiles_larger_than_the_picture_is_refused(kind: int, order: str, big: bool) -> None:
    assert np.array_equal(decode(tiff((256, 512), kind, order, big), RULE, LIMITS), np.zeros((8, 8, 3)))
    with pytest.raises(TooLarge, match="tiles of 6000000 pixels") as caught:
        decode(tiff((3000, 2000), kind, order, big), RULE, LIMITS)
    assert caught.value.code == "tile_too_large"


def test_sides_of_tiles_that_pillow_does_not_see_are_refused() -> None:
    with pytest.raises(BadImage, match=r"tag 32[23] is of type 17"):
        decode(tiff((3000, 2000), _SLONG8), RULE, LIMITS)


def test_a_tiff_without_its_directory_is_bad() -> None:
    with pytest.raises(BadImage):
        decode(tiff((64, 64))[:-60], RULE, LIMITS)
