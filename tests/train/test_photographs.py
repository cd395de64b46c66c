"""Sources of pictures to denoise: what is in them, what is held out, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.noise import Levels
from train.photographs import Kept, NoisyData, Photographs, open_photographs
from train.pictures import DataError

Write = Callable[..., Path]


def names(photographs: Photographs) -> list[str]:
    return list(photographs.names)


def nothing_in_common(data: NoisyData) -> bool:
    train, held_out = ({d.open(i).clean.tobytes() for i in range(len(d.names))} for d in (data.train, data.held_out))
    return not train & held_out


def test_builtin_photographs_are_the_named_ones() -> None:
    data = open_photographs("builtin:photos")
    assert names(data.held_out) == ["astronaut", "chelsea", "flower"]
    assert len(data.train.names) == 15
    assert {"motorcycle_left", "motorcycle_right"} <= set(data.train.names), "the stereo pair is on one side"
    assert data.train.weights.tolist() == [2.0] * 6 + [1.0] * 4 + [0.5] * 5
    assert nothing_in_common(data)
    shapes = {name: data.held_out.open(i).clean.shape for i, name in enumerate(data.held_out.names)}
    assert shapes == {"astronaut": (512, 512, 3), "chelsea": (300, 451, 3), "flower": (427, 640, 3)}
    assert all(data.train.open(i).clean.dtype == np.uint8 for i in range(15))
    assert not data.paired


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.builtin_photos.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"builtin:photos needs skimage, .*pip install 'skipvit\[train\]'"):
        open_photographs("builtin:photos")


@pytest.mark.parametrize(
    ("query", "sigma"),
    [
        ("", None),
        ("?sigma=25", Levels((25.0,))),
        ("?sigma=15,50", Levels((15.0, 50.0))),
        ("?sigma=5-50", Levels((5.0, 50.0), between=True)),
    ],
)
def test_any_folder_of_clean_pictures(tmp_path: Path, picture: Write, query: str, sigma: Levels | None) -> None:
    for i in range(21):
        picture(tmp_path / f"{'ab'[i % 2]}" / f"{i:02d}.png", seed=i)
    data = open_photographs(f"gaussian:{tmp_path}{query}")
    assert (len(data.train.names), len(data.held_out.names)) == (18, 3)
    assert nothing_in_common(data)
    assert data.sigma == sigma
    assert data.held_out.open(0).clean.shape == (32, 40, 3)


def test_pictures_of_one_name_are_told_apart(tmp_path: Path, picture: Write) -> None:
    for name in ("train/x.png", "val/a/1.png", "val/b/1.png", "val/b/1.jpg", "val/b/2.png"):
        picture(tmp_path / name)
    data = open_photographs(f"gaussian:{tmp_path}")
    assert names(data.held_out) == ["a_1.png", "b_1.jpg", "b_1.png", "2"], "they name files of an evaluation"


def test_folders_train_and_val_are_the_split(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "train" / "one.png")
    picture(tmp_path / "val" / "two.jpg")
    data = open_photographs(f"gaussian:{tmp_path}")
    assert (names(data.train), names(data.held_out)) == (["one"], ["two"])


def test_grey_and_16_bit_pictures_are_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((9, 9), 257 * 77, np.uint16)).save(tmp_path / "b.png")
    data = open_photographs(f"gaussian:{tmp_path}")
    assert [(d.open(0).clean == 77).all() for d in (data.train, data.held_out)] == [True, True]


@pytest.mark.parametrize("noisy", ["noisy", "input", "input_crops", "lq"])
@pytest.mark.parametrize("clean", ["clean", "groundtruth", "gt", "gt_crops"])
def test_pairs_by_name(tmp_path: Path, picture: Write, noisy: str, clean: str) -> None:
    for part in ("train", "val"):
        for i in range(2):
            seed = 10 * (part == "val") + i
            picture(tmp_path / part / noisy / f"{i}.png", seed=seed + 100)
            picture(tmp_path / part / clean / f"{i}.png", seed=seed)
    data = open_photographs(f"pairs:{tmp_path}")
    assert data.paired
    for photographs, part in ((data.train, "train"), (data.held_out, "val")):
        pair = photographs.open(1)
        assert (pair.clean == np.asarray(Image.open(tmp_path / part / clean / "1.png"))).all()
        assert (pair.noisy == np.asarray(Image.open(tmp_path / part / noisy / "1.png"))).all()


def test_endings_in_capitals_are_read(tmp_path: Path, picture: Write) -> None:
    for name in ("clean/a.PNG", "noisy/a.JPG", "clean/b.Png", "noisy/b.png"):
        picture(tmp_path / name)
    data = open_photographs(f"pairs:{tmp_path}")
    assert (names(data.held_out), names(data.train)) == (["a"], ["b"])
    data = open_photographs(f"gaussian:{tmp_path / 'clean'}")
    assert (names(data.held_out), names(data.train)) == (["a"], ["b"])


def test_pairs_without_a_split_hold_out_every_tenth(tmp_path: Path, picture: Write) -> None:
    for i in range(11):
        picture(tmp_path / "noisy" / f"{i:02d}.png", seed=i + 100)
        picture(tmp_path / "clean" / f"{i:02d}.png", seed=i)
    data = open_photographs(f"pairs:{tmp_path}")
    assert names(data.held_out) == ["00", "10"]
    assert len(data.train.names) == 9
    assert nothing_in_common(data)
    pair = data.held_out.open(1)
    assert (pair.noisy == np.asarray(Image.open(tmp_path / "noisy" / "10.png"))).all()


def test_a_picture_without_partner_is_named(tmp_path: Path, picture: Write) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "noisy" / f"{name}.png")
    picture(tmp_path / "clean" / "a.png")
    with pytest.raises(DataError, match=r"of 1 pictures there is only one of the two, the first is b, noisy"):
        open_photographs(f"pairs:{tmp_path}")


def test_partners_of_two_sizes_are_refused(tmp_path: Path, picture: Write) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "noisy" / f"{name}.png", size=(30, 20))
        picture(tmp_path / "clean" / f"{name}.png", size=(20, 30))
    with pytest.raises(DataError, match=r"noisy/b.png is 30 x 20 and .*clean/b.png is 20 x 30; the two must show"):
        open_photographs(f"pairs:{tmp_path}").train.open(0)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("builtin:digits", "names no pictures to denoise; write builtin:photos, gaussian:"),
        ("gaussian:", "names no pictures to denoise"),
        ("gaussian:/nowhere", "gaussian:/nowhere: there is no such folder"),
        ("gaussian:{tmp}", "has no picture to train on; it needs two at least"),
        ("gaussian:{tmp}?sigma=loud", "'loud' is none of 25, 15,25,50 and 5-50"),
        ("gaussian:{tmp}?sgima=25", "after the question mark stands sigma=25"),
        ("pairs:/nowhere", "pairs:/nowhere: there is no such folder"),
        ("pairs:{tmp}", "holds no pairs; put noisy pictures into noisy/"),
        ("sidd:/nowhere", "sidd:/nowhere: there is no such folder"),
        ("sidd:{tmp}", "has neither train/input/ and train/groundtruth/ nor SIDD_Medium_Srgb/Data/"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_photographs(uri.format(tmp=tmp_path))


def test_damaged_file_is_named(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    bad = picture(tmp_path / "b.png")
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"b.png is not a readable picture"):
        open_photographs(f"gaussian:{tmp_path}").train.open(0)


def test_decoded_pictures_are_kept_within_the_budget(tmp_path: Path, picture: Write) -> None:
    for i in range(11):
        picture(tmp_path / f"{i:02d}.png", seed=i)
    kept = Kept(open_photographs(f"gaussian:{tmp_path}").train, budget=2 * 32 * 40 * 3)
    for _ in range(2):
        for i in range(9):
            assert kept.open(i).clean.shape == (32, 40, 3)
    assert sorted(kept.held) == [0, 1]
    assert kept.open(0) is kept.open(0)
    assert kept.budget == 0
