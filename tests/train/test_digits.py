"""The scanned digits and their split, and the drawn ones."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from skipvit.transforms import Preprocessing
from train.digits import digits
from train.drawn_digits import as_page, digits_and_drawings, draw_strokes, drawn_digits, render
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


def test_drawings_are_of_all_digits_and_of_two_kinds_and_repeatable() -> None:
    data = drawn_digits()
    assert np.bincount(data.held_out.labels).tolist() == [60] * 10
    page, file = data.held_out.open(0), data.held_out.open(1)
    assert np.asarray(page)[0, 0].tolist() == [0, 0, 0]
    assert np.asarray(file)[0, 0].tolist() == [255, 255, 255]
    assert page.tobytes() == data.held_out.open(0).tobytes()
    assert file.tobytes() != data.train.open(1).tobytes()


def test_drawings_join_the_training_set_only() -> None:
    data, scans, drawn = digits_and_drawings(), digits(), drawn_digits()
    assert data.held_out_name == scans.held_out_name
    assert (data.held_out.labels == scans.held_out.labels).all()
    n = len(scans.train.labels)
    assert data.train.labels.tolist() == [*scans.train.labels.tolist(), *drawn.train.labels.tolist()]
    assert data.train.open(n - 1).tobytes() == scans.train.open(n - 1).tobytes()
    assert data.train.open(n).tobytes() == drawn.train.open(0).tobytes()
    corners = {np.asarray(data.train.open(i))[0, 0, 0] for i in range(n, n + 20)}
    assert corners == {0}, "training takes white on black and inverts by itself"


BAR = [np.array([[0.5, 0.2], [0.5, 0.8]])]
SLOPE = [np.array([[0.0, 0.0], [2.0, 1.0]])]


@pytest.mark.parametrize(("strokes", "margin"), [(BAR, 0.0), (BAR, 0.125), (SLOPE, 0.125)])
def test_rendering_fills_the_square_but_for_the_margin(strokes: list[np.ndarray], margin: float) -> None:
    left, top, right, bottom = render(strokes, 0.1, margin).getbbox() or (0, 0, 0, 0)
    assert max(right - left, bottom - top) == pytest.approx(128 * (1 - 2 * margin), abs=2)
    assert (left + right, top + bottom) == (pytest.approx(128, abs=2), pytest.approx(128, abs=2))


def test_the_pages_rule_gives_every_digit_the_scans_share_of_ink() -> None:
    for digit in range(10):
        picture = as_page(draw_strokes(digit, np.random.default_rng(digit)))
        left, top, right, bottom = picture.getbbox() or (0, 0, 0, 0)
        assert np.asarray(picture).mean() / 255 == pytest.approx(0.305, abs=0.02)
        assert bottom - top > 124 or right - left > 0.78 * 128
    scans = digits().train
    ink = np.mean([np.asarray(scans.open(i)).mean() / 255 for i in range(len(scans.labels))])
    assert ink == pytest.approx(0.305, abs=0.01)


@pytest.mark.parametrize("uri", ["builtin:letters", "imagefolder:", "digits", "s3://x", ""])
def test_unknown_data_is_refused_with_the_known_kinds(uri: str) -> None:
    with pytest.raises(DataError, match=r"names no data set; write builtin:digits, .*imagefolder:/path"):
        open_data(uri)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        open_data(f"imagefolder:{tmp_path / 'nowhere'}")
