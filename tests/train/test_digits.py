"""The scanned digits and their split, and the drawn ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from skipvit.transforms import Preprocessing
from train.digits import digits
from train.drawn_digits import crop_to_ink, draw_digit, drawn_digits
from train.pictures import DataError, open_data


def test_pixels_are_scikit_learns_in_eight_bits() -> None:
    data, (ink, labels) = digits(), load_digits(return_X_y=True)
    # every scan, found by its bytes and class, in one of the two sets
    expected = sorted(
        (np.rint(row * 255 / 16).astype(np.uint8).tobytes(), int(y)) for row, y in zip(ink, labels, strict=True)
    )
    sets = (data.train, data.held_out)
    found = sorted(
        (np.asarray(s.open(i))[..., 0].tobytes(), int(s.labels[i])) for s in sets for i in range(len(s.labels))
    )
    assert found == expected
    picture = np.asarray(data.train.open(0))
    assert picture.shape == (8, 8, 3)
    assert (picture == picture[..., :1]).all()
    assert max(np.asarray(data.train.open(i)).max() for i in range(100)) == 255


def test_sets_are_disjoint_stratified_and_always_the_same() -> None:
    data, again = digits(), digits()
    assert (len(data.train.labels), len(data.held_out.labels)) == (1437, 360)
    assert np.abs(np.bincount(data.held_out.labels) - np.bincount(data.train.labels) / 4).max() < 1
    assert all((np.asarray(data.held_out.open(i)) == np.asarray(again.held_out.open(i))).all() for i in range(360))

    def shown(pictures: object, n: int) -> set[bytes]:
        return {pictures.open(i).tobytes() for i in range(n)}  # type: ignore[attr-defined]

    assert not shown(data.train, 1437) & shown(data.held_out, 360)


def test_a_scan_passes_the_servers_preprocessing_unchanged() -> None:
    preprocessing = Preprocessing(height=8, width=8, resize="squash", interpolation="box")
    scan = digits().held_out.open(3)
    assert (preprocessing(scan) == np.asarray(scan)).all()


def test_drawings_are_of_all_digits_in_both_polarities_and_repeatable() -> None:
    data = drawn_digits()
    assert np.bincount(data.held_out.labels).tolist() == [60] * 10
    one, other = data.held_out.open(0), data.held_out.open(1)
    assert np.asarray(one)[0, 0].tolist() == [0, 0, 0]
    assert np.asarray(other)[0, 0].tolist() == [255, 255, 255]
    assert one.tobytes() == data.held_out.open(0).tobytes()
    assert one.tobytes() != data.train.open(0).tobytes()


def test_crop_is_square_with_its_margin() -> None:
    image = Image.new("L", (50, 40))
    image.paste(255, (10, 5, 20, 35))  # 10 wide, 30 high
    cropped = crop_to_ink(image, 0.125, inverted=False)
    assert cropped.size == (40, 40)
    assert cropped.getbbox() == (15, 5, 25, 35)
    assert crop_to_ink(image, 0.0, inverted=False).size == (30, 30)


def test_an_empty_canvas_is_no_error() -> None:
    assert crop_to_ink(Image.new("L", (50, 40)), 0.1, inverted=True).getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("digit", range(10))
def test_every_digit_leaves_ink_inside_the_canvas(digit: int) -> None:
    for seed in range(20):
        left, top, right, bottom = draw_digit(digit, np.random.default_rng(seed)).getbbox() or (0, 0, 0, 0)
        assert bottom - top > 80
        assert min(left, top) > 0
        assert max(right, bottom) < 280


@pytest.mark.parametrize("uri", ["builtin:letters", "imagefolder:", "digits", "s3://x", ""])
def test_unknown_data_is_refused_with_the_known_kinds(uri: str) -> None:
    with pytest.raises(DataError, match=r"names no data set; write builtin:digits, .*imagefolder:/path"):
        open_data(uri)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        open_data(f"imagefolder:{tmp_path / 'nowhere'}")
