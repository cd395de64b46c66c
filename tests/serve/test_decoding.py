"""Every kind of bad picture gets a clear error that names it; every kind of odd one is read."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from serve.decoding import ImageLimits, decode
from serve.errors import BadImage, RequestError, TooLarge
from skipvit.transforms import Preprocessing
from tests.serve.servers import encoded

RULE = Preprocessing(height=8, width=8, resize="squash", interpolation="box")
LIMITS = ImageLimits(max_pixels=1_000_000, max_frames=1)


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size: the cheapest bomb."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def gif(frames: int) -> bytes:
    pictures = [Image.new("L", (8, 8), 10 * k) for k in range(frames)]
    return encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:])


ODD_BUT_FINE = {
    "16-bit grey": (encoded(Image.fromarray(np.full((9, 9), 65535, np.uint16))), 255),
    "one bit": (encoded(Image.new("1", (9, 9), 1)), 255),
    "palette": (encoded(Image.new("L", (9, 9), 255).convert("P")), 255),
    "transparent palette": (encoded(Image.new("P", (9, 9), 0), transparency=0), 255),
    "alpha over white": (encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0))), 255),
    "CMYK JPEG": (encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 0)), "JPEG"), 255),
    "grey JPEG": (encoded(Image.new("L", (9, 9), 255), "JPEG"), 255),
    "progressive JPEG": (encoded(Image.new("RGB", (9, 9), "white"), "JPEG", progressive=True), 255),
    "WebP": (encoded(Image.new("RGB", (9, 9), "white"), "WEBP"), 255),
    "BMP": (encoded(Image.new("RGB", (9, 9), "white"), "BMP"), 255),
    "TIFF": (encoded(Image.new("RGB", (9, 9), "white"), "TIFF"), 255),
    "float TIFF": (encoded(Image.new("F", (9, 9), 1.0), "TIFF"), 255),
    "still GIF": (gif(1), 0),
    "one by one": (encoded(Image.new("L", (1, 1), 255)), 255),
    "very thin": (encoded(Image.new("L", (4000, 1), 255)), 255),
}


@pytest.mark.parametrize("kind", ODD_BUT_FINE)
def test_odd_pictures_are_read(kind: str) -> None:
    data, level = ODD_BUT_FINE[kind]
    pixels = decode(data, RULE, LIMITS)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, level)


def test_exif_rotation_is_applied() -> None:
    upright = Image.new("L", (10, 20), 0)
    upright.paste(255, (0, 0, 10, 10))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    stored = upright.rotate(90, expand=True)
    pixels = decode(encoded(stored, "JPEG", exif=exif, quality=100), RULE, LIMITS)
    assert pixels[:3].mean() > 250
    assert pixels[5:].mean() < 5


def test_a_phone_photo_with_a_second_picture_is_one_frame() -> None:
    data = encoded(noise(), "MPO", save_all=True, append_images=[noise(8, 8)])
    assert decode(data, RULE, LIMITS).shape == (8, 8, 3)


BAD = {
    "zero bytes": (b"", "empty_image", r"'bad\.bin' is empty: it has 0 bytes"),
    "text": (
        b"hello, this is no picture",
        "not_an_image",
        r"'bad\.bin' is not an image .* its \d+ bytes start with b'hello, this",
    ),
    "HTML": (b"<html><body>404</body></html>", "not_an_image", "it is text that starts with"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not_an_image", "it is a heic file"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image", "it is text"),
    "truncated PNG": (encoded(noise())[:4000], "truncated_image", r"'bad\.bin' is cut short: it ends after 4000 bytes"),
    "truncated JPEG": (encoded(noise(), "JPEG")[:900], "truncated_image", "is cut short"),
    "truncated GIF": (encoded(noise(), "GIF")[:1000], "truncated_image", "is cut short"),
    "truncated BMP": (encoded(noise(), "BMP")[:1000], "truncated_image", "is cut short"),
    "truncated WebP": (encoded(noise(), "WEBP")[:500], "bad_image", "cannot be decoded"),
    "header only": (encoded(noise())[:40], "bad_image", r"bad\.bin"),
    "magic only": (b"\xff\xd8\xff\xe0", "not_an_image", "its 4 bytes"),
    "lying header": (png_claiming(500, 500), "truncated_image", r"bad\.bin"),
    "broken checksum": (encoded(noise()).replace(b"IDAT", b"IDAQ", 1), "bad_image", r"bad\.bin"),
    "EPS, which runs a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image", r"bad\.bin"),
    "PPM, not on the list": (b"P6 2 2 255 " + bytes(12), "not_an_image", r"bad\.bin"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_pictures_are_named(kind: str) -> None:
    data, code, message = BAD[kind]
    with pytest.raises(BadImage, match=message) as caught:
        decode(data, RULE, LIMITS, "bad.bin")
    assert caught.value.status == 400
    assert caught.value.hint
    if kind not in ("header only", "lying header", "broken checksum"):  # Pillow's wording there may change
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (png_claiming(1001, 1000), "image_too_large", r"1001 x 1000 pixels, the limit is 1000000"),
        (png_claiming(10_000, 9_000), "image_too_large", "the limit is 1000000 pixels"),
        (png_claiming(30_000, 30_000), "image_too_large", "the limit is 1000000 pixels"),
        (png_claiming(2**31 - 1, 2**31 - 1), "image_too_large", "the limit is 1000000 pixels"),
        (gif(3), "too_many_frames", "has more than one frames?, the limit is 1"),
        (
            encoded(noise(), "TIFF", save_all=True, append_images=[noise()]),
            "too_many_frames",
            "the limit is 1",
        ),
        (
            encoded(noise(), "PNG", save_all=True, append_images=[noise(32, 32)]),
            "too_many_frames",
            "the limit is 1",
        ),
        (
            encoded(noise(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
            "too_many_frames",
            "the limit is 1",
        ),
    ],
)
def test_headers_over_a_limit(data: bytes, code: str, message: str) -> None:
    with pytest.raises(TooLarge, match=message) as caught:
        decode(data, RULE, LIMITS, "big.png")
    assert (caught.value.status, caught.value.code) == (413, code)
    assert "big.png" in caught.value.message


def test_frames_within_a_higher_limit_give_the_first() -> None:
    limits = ImageLimits(max_pixels=1000, max_frames=3)
    assert decode(gif(3), RULE, limits).mean() == 0
    with pytest.raises(TooLarge, match="has 4 frames, the limit is 3"):
        decode(gif(4), RULE, limits)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_text_bombs_in_a_png(kind: str) -> None:
    info = PngImagePlugin.PngInfo()
    bomb = "x" * (64 << 20)
    if kind == "zTXt":
        info.add_text("Comment", bomb, zip=True)
    else:
        info.add_itxt("Comment", bomb, zip=True)
    with pytest.raises(BadImage, match=r"bomb\.png"):
        decode(encoded(noise(8, 8), pnginfo=info), RULE, LIMITS, "bomb.png")


def test_a_gigabyte_of_zeros_in_a_small_png_is_refused_unread() -> None:
    """32768 x 32768 really compressed pixels: a megabyte that would become three gigabytes."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(32768 * 3 + 1)) for _ in range(64)) + rows.flush()
    head = png_claiming(32768, 32768)
    data = head[:33] + struct.pack(">I", len(packed)) + b"IDAT" + packed + bytes(4)
    with pytest.raises(TooLarge, match="the limit is 50000000 pixels"):
        decode(data, RULE, ImageLimits(), "bomb.png")


_SEEDS = [encoded(noise(16, 12), fmt) for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")] + [
    gif(2),
    encoded(noise(8, 8), "TIFF", compression="tiff_lzw"),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(_SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 3000),
    tail=st.binary(max_size=32),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken metadata, which is no error
def test_fuzzed_files_decode_or_fail_cleanly(seed: bytes, edits: list[tuple[int, int]], cut: int, tail: bytes) -> None:
    data = bytearray(seed)
    for position, value in edits:
        data[position % len(data)] = value
    hostile = bytes(data[: max(1, len(data) - cut % len(data))]) + tail
    outcome = outcome_of(hostile)
    assert outcome in ("decoded", 400, 413)


def outcome_of(data: bytes) -> str | int:
    """What becomes of hostile bytes; anything but a picture or a RequestError escapes and fails the test."""
    try:
        pixels = decode(data, RULE, ImageLimits(max_pixels=100_000), "fuzz")
    except RequestError as error:
        return error.status if error.code and error.hint else "an error without a code or hint"
    return "decoded" if pixels.shape == (8, 8, 3) else "a wrong shape"


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
)
@pytest.mark.filterwarnings("ignore")
def test_random_bytes_fail_cleanly(body: bytes, magic: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode(magic + body, RULE, ImageLimits(max_pixels=10_000))
    assert caught.value.status in (400, 413)
