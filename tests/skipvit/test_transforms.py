"""Pictures of every kind become the pixels that a person would expect to see."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skipvit.transforms import Preprocessing, stack, to_rgb

GRADIENT = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (30, 1))


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return Image.open(io.BytesIO(buffer.getvalue()))


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "I;16"]),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    out=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    resize=st.sampled_from(["crop", "squash"]),
    crop_pct=st.floats(0.1, 1.0),
)
def test_any_mode_and_size_becomes_rgb_of_the_right_size(
    mode: str, width: int, height: int, out: tuple[int, int], resize: str, crop_pct: float
) -> None:
    pre = Preprocessing(height=out[0], width=out[1], resize=resize, crop_pct=crop_pct)  # type: ignore[arg-type]
    pixels = pre(Image.new(mode, (width, height)))
    assert pixels.shape == (*out, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    rgb = np.asarray(to_rgb(reopened(deep, "PNG")))
    np.testing.assert_array_equal(rgb, np.repeat(GRADIENT[..., None], 3, axis=2))


@pytest.mark.parametrize(("top", "scale"), [(1.0, 255.0), (255.0, 1.0)])
def test_floating_point_grey(top: float, scale: float) -> None:
    image = Image.fromarray((GRADIENT / 255.0 * top).astype(np.float32))
    np.testing.assert_allclose(np.asarray(to_rgb(image))[..., 0], GRADIENT, atol=1)


def test_transparency_lies_over_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    rgba.putpixel((0, 0), (200, 0, 0, 255))
    rgb = np.asarray(to_rgb(reopened(rgba, "PNG")))
    assert rgb[0, 0].tolist() == [200, 0, 0]
    assert rgb[1, 1].tolist() == [255, 255, 255]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    rgb = np.asarray(to_rgb(reopened(palette, "PNG", transparency=1)))
    assert rgb[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = Image.new("RGB", (6, 4), (0, 0, 0))
    upright.putpixel((0, 0), (255, 0, 0))
    transpose = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(transpose[orientation]) if orientation in transpose else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = to_rgb(reopened(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(upright))


def test_crop_takes_the_centre_and_squash_takes_all() -> None:
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste((0, 255, 0), (100, 0, 200, 100))
    crop = Preprocessing(height=10, width=10, crop_pct=1.0, interpolation="nearest")(wide)
    assert np.all(crop == [0, 255, 0])
    squash = Preprocessing(height=10, width=30, resize="squash", interpolation="nearest")(wide)
    assert squash[0, 0].tolist() == [255, 0, 0]
    assert squash[0, 15].tolist() == [0, 255, 0]


def test_crop_equals_resizing_the_shorter_side_and_cutting_the_centre() -> None:
    """timm's evaluation rule, up to the rounding that it does and we do not."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)).resize(
        (640, 512), Image.Resampling.BICUBIC
    )
    ours = Preprocessing(height=224, width=224, crop_pct=0.875)(photo).astype(int)
    resized = photo.resize((320, 256), Image.Resampling.BICUBIC)
    theirs = np.asarray(resized.crop((48, 16, 272, 240))).astype(int)
    assert np.abs(ours - theirs)[2:-2, 2:-2].max() <= 2


def test_pictures_of_the_models_size_pass_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pre = Preprocessing(height=8, width=8, resize="squash", interpolation="box")
    np.testing.assert_array_equal(pre(Image.fromarray(pixels)), pixels)


def test_stack_refuses_nothing_and_mixtures() -> None:
    a, b = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)
    assert stack([a, a]).shape == (2, 2, 2, 3)
    with pytest.raises(ValueError, match="got no picture"):
        stack([])
    with pytest.raises(ValueError, match=r"pictures of one size are needed.*\(2, 2, 3\), \(2, 3, 3\)"):
        stack([a, b])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1100), st.integers(1, 1100), st.sampled_from([28, 112, 224, 299, 518]))
def test_a_crop_of_the_whole_is_never_refused_for_a_rounding_error(width: int, height: int, side: int) -> None:
    pre = Preprocessing(height=side, width=side, crop_pct=1.0, interpolation="nearest")
    left, top, right, bottom = pre.window(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    pre(Image.new("L", (225, 275)))  # a size at which rounding went outside


def damaged_exif(image: Image.Image) -> bytes:
    """A PNG whose EXIF turns it by 90 degrees, and has text where its XResolution should be a fraction."""
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + bytes(4)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=b"Exif\0\0" + exif)
    return buffer.getvalue()


def test_damaged_metadata_does_not_make_a_picture_unreadable() -> None:
    wide = Image.new("RGB", (6, 4), (1, 2, 3))
    assert to_rgb(Image.open(io.BytesIO(damaged_exif(wide)))).size == (4, 6)
    webp = io.BytesIO()
    wide.save(webp, "WEBP", exif=b"Exif\x00\x00not a TIFF file", lossless=True)
    assert to_rgb(Image.open(io.BytesIO(webp.getvalue()))).getpixel((0, 0)) == (1, 2, 3)


def test_transparent_palettes_and_infinite_values() -> None:
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30, 0], "RGBA")
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    values = np.array([[0.0, np.inf], [-np.inf, 1.0], [0.5, np.nan]], np.float32)
    assert np.asarray(to_rgb(Image.fromarray(values)))[..., 0].tolist() == [[0, 255], [0, 255], [128, 0]]
