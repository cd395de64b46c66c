"""Pictures without labels: which are learned from, which are measured on, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skipvit.picture_files import OriginError
from skipvit.transforms import Preprocessing
from train.digits import digits
from train.pictures import DataError
from train.unlabelled import read_material

DIGITS = tuple("0123456789")
PREPROCESSING = Preprocessing(height=8, width=8, resize="squash", interpolation="box")


def test_every_fifth_picture_of_a_folder_is_held_out(tmp_path: Path, picture: Callable[..., Path]) -> None:
    paths = sorted(picture(tmp_path / f"{i % 3}" / f"{i:02}.png", seed=i, size=(8, 8)) for i in range(23))
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_material(str(tmp_path), PREPROCESSING, DIGITS, 100)
    held_out = [paths[i] for i in (4, 9, 14, 19)]
    train = [path for path in paths if path not in held_out]
    assert (len(found.train), len(found.held_out), found.labels) == (19, 4, None)
    from PIL import Image

    for paths_of, pixels in ((train, found.train), (held_out, found.held_out)):
        for path, tensor in zip(paths_of, pixels, strict=True):
            assert (np.asarray(Image.open(path)) == tensor.permute(1, 2, 0).numpy()).all()
    assert "classes" in found.note
    assert "4 pictures" in found.name


def test_a_data_set_brings_its_held_out_part_and_classes() -> None:
    found, own = read_material("builtin:digits", PREPROCESSING, DIGITS, 4000), digits()
    assert len(found.train) == len(own.train.labels)
    assert found.labels is not None
    assert (found.labels == own.held_out.labels).all()
    assert (found.held_out.permute(0, 2, 3, 1).numpy() == own.held_out.pixels).all()  # type: ignore[attr-defined]
    few = read_material("builtin:digits", PREPROCESSING, tuple("abcdefghij"), 100)
    assert (len(few.train), len(few.held_out), few.labels) == (100, 25, None)
    assert "accuracy is not measured" in few.note
    assert few.name.startswith("25 of scikit-learn digits")


def test_what_cannot_be_used_is_named(tmp_path: Path, picture: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        read_material(str(tmp_path / "gone"), PREPROCESSING, DIGITS, 100)
    with pytest.raises(OriginError, match="holds no picture"):
        read_material(str(tmp_path), PREPROCESSING, DIGITS, 100)
    for i in range(9):
        picture(tmp_path / f"{i}.png", seed=i)
    with pytest.raises(DataError, match="gives 8 pictures to learn from and 1 to measure on"):
        read_material(str(tmp_path), PREPROCESSING, DIGITS, 100)
    for i in range(9, 20):
        picture(tmp_path / f"{i}.png", seed=i)
    large = PREPROCESSING.model_copy(update={"height": 9000, "width": 16000})
    with pytest.raises(DataError, match="of memory, more than 4096; give a smaller --limit"):
        read_material(str(tmp_path), large, DIGITS, 100)
    (tmp_path / "7.png").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match=r"7\.png is not a readable picture"):
        read_material(str(tmp_path), PREPROCESSING, DIGITS, 100)
