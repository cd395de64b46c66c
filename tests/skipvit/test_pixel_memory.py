"""What lies where the pixels of a picture are said to be: read back byte by byte, and compared with Pillow's own."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skipvit import pixel_memory
from skipvit.pixel_memory import NoSingleMemory, Picture, Pixels, bands

Window = tuple[int, int, int, int]


def noise(width: int, height: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)


@contextmanager
def pillow_keeps(setter: Callable[[int], None], value: int, before: int) -> Iterator[None]:
    """Pictures that are made in the block are kept in memory in another way."""
    try:
        setter(value)
        yield
    finally:
        setter(before)


def in_pieces(pixels: Pixels) -> Image.Image:
    """A picture whose rows are in blocks of 4 KiB; Pillow's own are of 16 MiB."""
    with pillow_keeps(Image.core.set_block_size, 4096, Image.core.get_block_size()):
        image = Image.fromarray(pixels)
    with pytest.raises(ValueError, match=r"contiguous|multiple"):
        image.__arrow_c_array__()
    return image


def read_back(picture: Picture, window: Window, axis: int) -> tuple[Pixels, list[int]]:
    """The window's pixels (height, width, 3) uint8 as its bands have them, and the length of each band."""
    left, top, right, bottom = window
    found = np.zeros((bottom - top, right - left, 3), np.uint8)
    lengths = []
    for band, address, pitch in bands(picture, window, axis):
        part = found[:, band] if axis == 0 else found[band]
        for number, row in enumerate(part):
            memory = ctypes.string_at(address + number * pitch, 4 * len(row))
            row[:] = np.frombuffer(memory, np.uint8).reshape(-1, 4)[:, :3]
        lengths.append(part.shape[1 - axis])
    return found, lengths


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, Window]:
    """Width and height of a picture, and a part of it that is not empty."""
    width, height = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return width, height, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))


@given(windows(), st.sampled_from([0, 1]), st.booleans())
def test_a_picture_in_one_piece_is_one_band(asked: tuple[int, int, Window], axis: int, padded: bool) -> None:
    width, height, (left, top, right, bottom) = asked
    pixels = noise(width, height, 4 if padded else 3)
    found, lengths = read_back(pixels if padded else Image.fromarray(pixels), asked[2], axis)
    np.testing.assert_array_equal(found, pixels[top:bottom, left:right, :3])
    assert lengths == [(right - left, bottom - top)[axis]]


@pytest.mark.parametrize(("axis", "lengths"), [(0, [3] * 12 + [1]), (1, [6] * 13 + [2])])
def test_bands_of_a_picture_in_several_pieces(axis: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 37 columns and 80 rows, four bytes a pixel: as many as fit into 1000 bytes."""
    pixels = noise(40, 99)
    monkeypatch.setattr(pixel_memory, "BAND_BYTES", 1000)
    found, found_lengths = read_back(in_pieces(pixels), (2, 15, 39, 95), axis)
    np.testing.assert_array_equal(found, pixels[15:95, 2:39])
    assert found_lengths == lengths


@pytest.mark.parametrize("axis", [0, 1])
def test_a_band_is_a_row_or_a_column_at_the_least(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(40, 99)
    monkeypatch.setattr(pixel_memory, "BAND_BYTES", 1)
    found, lengths = read_back(in_pieces(pixels), (0, 0, 40, 99), axis)
    np.testing.assert_array_equal(found, pixels)
    assert lengths == [1] * (40, 99)[axis]


def test_rows_that_never_follow_one_another_are_refused() -> None:
    """As where Pillow was told to align them."""
    with pillow_keeps(Image.core.set_alignment, 64, Image.core.get_alignment()):
        image = Image.fromarray(noise(5, 7))
        with pytest.raises(NoSingleMemory):
            list(bands(image, (0, 0, 5, 7), 1))
