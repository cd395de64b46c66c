"""Colour on purpose: an identity through every mode, format and piece of metadata."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from serve.decoding import ImageLimits
from serve.errors import NotAcceptable
from serve.photograph import OpenedPicture, Photograph
from serve.picture_format import encode, fitting_type
from skipvit.tiling import Strip, plan, restore
from tests.serve.servers import encoded

LIMITS = ImageLimits()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
PNG, JPEG, WEBP = "image/png", "image/jpeg", "image/webp"


def opened(data: bytes) -> Photograph:
    return OpenedPicture(data, None, LIMITS).decode()


def rewritten(photograph: Photograph, change: int = 0) -> None:
    """Writes every strip back, with ``change`` added to the colours."""
    width, height = photograph.image.size
    p = plan(height, width, 32, 4, 8)
    whole = photograph.region((0, 0, height, width))
    pixels = restore(whole, p, lambda tile: tile + np.uint8(change))
    photograph.write(Strip(0, 0, pixels))


def answered(data: bytes, media_type: str = PNG, quality: int = 95) -> tuple[Image.Image, list[str]]:
    photograph = opened(data)
    rewritten(photograph)
    answer = encode(photograph, media_type, quality)
    assert answer.media_type == media_type
    image = Image.open(io.BytesIO(answer.data))
    image.load()
    return image, answer.notes


def noise(mode: str, width: int = 40, height: int = 33) -> Image.Image:
    bands = Image.getmodebands(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[:, :, 0]).convert("1")
    return Image.merge(mode, [Image.fromarray(pixels[:, :, k]) for k in range(bands)])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_four_modes_stay_as_they_are(mode: str, format: str) -> None:
    image = noise(mode)
    result, notes = answered(encoded(image, format))
    assert result.mode == mode
    assert result.tobytes() == image.tobytes()
    assert notes == []


@pytest.mark.parametrize(
    ("image", "expected", "note"),
    [
        (noise("1"), "L", "black and white became grey"),
        (noise("RGB").quantize(200), "RGB", "a palette became RGB"),
        (noise("CMYK"), "RGB", "CMYK became RGB"),
        (Image.fromarray((np.arange(1024).reshape(32, 32) * 64).astype(np.uint16)), "L", "restored at 8 bits"),
        (Image.fromarray(np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)), "L", "restored at 8 bits"),
        (noise("YCbCr"), "RGB", None),
    ],
    ids=["1", "P", "CMYK", "I;16", "F", "YCbCr"],
)
def test_other_modes_become_one_of_the_four(image: Image.Image, expected: str, note: str | None) -> None:
    result, notes = answered(encoded(image, "TIFF"))
    assert result.mode == expected
    assert result.size == image.size
    assert (note is None) == (not notes)
    assert not note or note in notes[0]
    if image.mode in ("1", "P", "CMYK"):
        assert result.tobytes() == Image.open(io.BytesIO(encoded(image, "TIFF"))).convert(expected).tobytes()


def test_sixteen_bit_grey_is_rounded() -> None:
    levels = np.array([[0, 128, 129, 257, 65535, 32896]], np.uint16)
    result, notes = answered(encoded(Image.fromarray(levels), "PNG"))
    assert np.asarray(result).tolist() == [[0, 0, 1, 1, 255, 128]]
    assert notes == ["restored at 8 bits: the picture had more"]


def deep_png(color_type: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\x00" + struct.pack(f">{3 * channels}H", *[1000 * k for k in range(3 * channels)]) for _ in range(2)
    )
    header = struct.pack(">IIBBBBB", 3, 2, 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color_type", "channels", "mode"), [(2, 3, "RGB"), (6, 4, "RGBA"), (4, 2, "LA")])
def test_sixteen_bits_of_colour_are_noted(color_type: int, channels: int, mode: str) -> None:
    result, notes = answered(deep_png(color_type, channels))
    assert (result.mode, result.size) == (mode, (3, 2))
    assert notes == ["restored at 8 bits: the picture had 16"]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_not_touched_and_colours_are(mode: str) -> None:
    image = noise(mode)
    photograph = opened(encoded(image))
    rewritten(photograph, 7)
    assert photograph.image.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    before, after = (np.asarray(picture.convert("RGB"), np.uint8) for picture in (image, photograph.image))
    assert np.array_equal(after, before + np.uint8(7))


def test_a_transparent_colour_becomes_alpha() -> None:
    palette = noise("RGB").quantize(8)
    for image in (palette, noise("L"), noise("RGB")):
        transparent: Any = image.getpixel((0, 0))
        result, _ = answered(encoded(image, "PNG", transparency=transparent))
        assert result.mode == ("LA" if image.mode == "L" else "RGBA")
        assert result.getchannel("A").getpixel((0, 0)) == 0
        colours = "L" if image.mode == "L" else "RGB"
        assert result.convert(colours).tobytes() == image.convert(colours).tobytes()


@pytest.mark.parametrize(("mode", "flat"), [("LA", "L"), ("RGBA", "RGB")])
def test_a_jpeg_lies_over_white(mode: str, flat: str) -> None:
    image = Image.merge(
        mode, [Image.new("L", (32, 32), 100)] * len(flat) + [Image.linear_gradient("L").resize((32, 32))]
    )
    result, notes = answered(encoded(image), JPEG)
    assert result.mode == flat
    assert notes == ["transparent parts were laid over white: a JPEG has no alpha"]
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert(flat)
    assert np.abs(np.asarray(result, int) - np.asarray(expected, int)).max() <= 4


def test_webp_keeps_alpha_and_profile() -> None:
    image = noise("RGBA")
    result, notes = answered(encoded(image, "PNG", icc_profile=SRGB), WEBP)
    assert (result.format, result.mode, notes) == ("WEBP", "RGBA", [])
    assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert result.info["icc_profile"] == SRGB


@pytest.mark.parametrize("media_type", [PNG, JPEG, WEBP])
def test_a_profile_that_fits_is_kept(media_type: str) -> None:
    image, notes = answered(encoded(noise("RGB"), "JPEG", icc_profile=SRGB), media_type)
    assert (image.info["icc_profile"], notes) == (SRGB, [])


@pytest.mark.parametrize(
    ("mode", "profile", "kept", "note"),
    [
        ("L", GREY_PROFILE, True, None),
        ("L", SRGB, False, "it is not for grey"),
        ("RGB", GREY_PROFILE, False, "it is not for RGB"),
        ("CMYK", SRGB[:16] + b"CMYK" + SRGB[20:], False, "it is not for RGB"),
        ("RGB", SRGB + bytes(2 << 20), False, "bytes was dropped"),
        ("RGB", b"nonsense", False, "it is not for RGB"),
    ],
)
def test_a_profile_that_does_not_fit_is_dropped(mode: str, profile: bytes, kept: bool, note: str | None) -> None:
    image, notes = answered(encoded(noise(mode), "TIFF", icc_profile=profile))
    assert ("icc_profile" in image.info) is kept
    assert note is None or note in notes[-1]


def exif_of(orientation: int, **more: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for tag, text in more.items():
        exif[int(tag[1:])] = text
    return exif.tobytes()


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("media_type", [PNG, JPEG, WEBP])
def test_pixels_lie_as_they_did_and_the_orientation_goes_with_them(source: str, media_type: str) -> None:
    data = encoded(noise("RGB"), source, exif=exif_of(6, t271="A camera"))
    result, notes = answered(data, media_type)
    assert result.size == (40, 33)
    assert result.getexif()[0x0112] == 6
    assert result.getexif()[271] == "A camera"
    assert notes == []


def test_a_tiff_comes_upright() -> None:
    """Pillow turns it while it is decoded; writing its orientation again would turn it twice."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = noise("RGB")
    result, _ = answered(encoded(image, "TIFF", exif=exif))
    assert result.size == (33, 40)
    assert result.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()
    assert 0x0112 not in result.getexif()


def test_a_huge_exif_block_leaves_its_orientation() -> None:
    data = encoded(noise("RGB"), "PNG", exif=exif_of(8, t270="x" * 70_000))
    for media_type in (PNG, JPEG):
        result, notes = answered(data, media_type)
        assert dict(result.getexif()) == {0x0112: 8}
        assert "was dropped, except its orientation" in notes[0]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("block", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"nonsense", b"Exif\x00\x00"])
def test_a_damaged_exif_block_does_no_harm(block: bytes) -> None:
    result, _ = answered(encoded(noise("RGB"), "PNG", exif=block), JPEG)
    assert result.size == (40, 33)


@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([PNG, JPEG, WEBP]),
)
@settings(max_examples=60, deadline=None)
def test_any_mode_and_size_comes_back_as_large_as_it_was(mode: str, width: int, height: int, media_type: str) -> None:
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB" if mode in ("I;16", "F", "P") else mode)
    if mode == "P":
        image = image.quantize(16)
    elif mode in ("I;16", "F"):
        image = Image.fromarray(np.asarray(image)[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32))
    result, _ = answered(encoded(image, "TIFF"), media_type)
    assert result.size == (width, height)


def test_quality_makes_smaller_files() -> None:
    photograph = opened(encoded(noise("RGB", 200, 200)))
    for media_type in (JPEG, WEBP):
        sizes = [len(encode(photograph, media_type, quality).data) for quality in (95, 30)]
        assert sizes[1] < sizes[0] / 2


def test_the_format_holds_the_picture() -> None:
    assert fitting_type([WEBP, JPEG], 20_000, 10) == JPEG
    assert fitting_type([PNG], 10**6, 1) == PNG
    assert fitting_type([WEBP, PNG], 6000, 4000) == PNG
    with pytest.raises(NotAcceptable, match="70000 x 10 pixels are too many for image/webp and image/jpeg"):
        fitting_type([WEBP, JPEG], 70_000, 10)
