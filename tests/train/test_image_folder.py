"""Picture folders in all their layouts, and what is wrong with the others."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from skipvit.transforms import to_rgb
from train.image_folder import image_folder
from train.pictures import DataError, open_data

WNIDS = ("n01440764", "n01443537", "n02119789")
Write = Callable[..., Path]


def test_classes_are_sorted_and_pictures_found(folder: Path) -> None:
    data = open_data(f"imagefolder:{folder}")
    assert data.classes == ("ant", "bee")
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert data.held_out.labels.tolist() == [0, 0, 1, 1]
    assert data.held_out.open(0).size == (40, 32)
    assert data.held_out_name == f"{folder / 'val'}, 4 pictures"


def test_labels_follow_the_folders(folder: Path) -> None:
    data = image_folder(folder)
    expected = Image.open(folder / "train" / "bee" / "0.png")
    assert data.train.open(8).tobytes() == expected.tobytes()


def test_validation_may_have_fewer_classes(folder: Path) -> None:
    shutil.rmtree(folder / "val" / "ant")
    assert image_folder(folder).held_out.labels.tolist() == [1, 1]


@pytest.fixture
def ilsvrc(tmp_path: Path, picture: Write) -> Path:
    """Kaggle's layout, three classes, flat val of classes 2, 0, 1 in the order of file names; no list of them yet."""
    inner = tmp_path / "imagenet" / "ILSVRC" / "Data" / "CLS-LOC"
    for c, wnid in enumerate(WNIDS):
        picture(inner / "train" / wnid / f"{wnid}_1.JPEG", seed=c)
    for i in (1, 2, 3):
        picture(inner / "val" / f"ILSVRC2012_val_{i:08d}.JPEG", seed=10 + i)
    return tmp_path / "imagenet"


def add_solution(root: Path) -> None:
    rows = ["ImageId,PredictionString"]
    # Kaggle's rows are in no order; boxes follow the class, and several may
    rows += [f"ILSVRC2012_val_{i:08d},{WNIDS[c]} 1 2 3 4 {WNIDS[c]} 5 6 7 8" for i, c in ((3, 1), (1, 2), (2, 0))]
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("inner", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_solution_labels_the_flat_folder(ilsvrc: Path, inner: str) -> None:
    add_solution(ilsvrc)
    if inner == "ILSVRC/Data/CLS-LOC":
        shutil.move(ilsvrc / "LOC_val_solution.csv", ilsvrc / "ILSVRC" / "Data" / "LOC_val_solution.csv")
    data = image_folder(ilsvrc / inner)
    assert data.classes == WNIDS
    assert data.held_out.labels.tolist() == [2, 0, 1]


def test_synset_mapping_gives_words(ilsvrc: Path) -> None:
    add_solution(ilsvrc)
    (ilsvrc / "LOC_synset_mapping.txt").write_text(
        f"{WNIDS[0]} tench, Tinca tinca\n{WNIDS[1]} goldfish\n{WNIDS[2]} kit fox\n"
    )
    assert image_folder(ilsvrc).classes == ("tench, Tinca tinca", "goldfish", "kit fox")


def add_devkit(root: Path, table: str) -> None:
    """The devkit's numbers: 1 is the kit fox, which is last of the sorted wnids."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n")
    numbered = {1: WNIDS[2], 2: WNIDS[0], 3: WNIDS[1]}
    if table == "map_clsloc.txt":
        (kit / table).write_text("".join(f"{wnid} {n} some_words\n" for n, wnid in numbered.items()))
    elif table == "meta.mat":
        fields = np.array(list(numbered.items()), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
        savemat(kit / table, {"synsets": fields})


@pytest.mark.parametrize("table", ["map_clsloc.txt", "meta.mat"])
def test_devkits_ground_truth_labels_the_flat_folder(ilsvrc: Path, table: str) -> None:
    add_devkit(ilsvrc, table)
    assert image_folder(ilsvrc).held_out.labels.tolist() == [2, 0, 1]


def test_devkits_numbers_alone_are_refused(ilsvrc: Path) -> None:
    add_devkit(ilsvrc, "")
    with pytest.raises(
        DataError, match=r"do not follow the sorted folders; copy the devkit's map_clsloc.txt or meta.mat"
    ):
        image_folder(ilsvrc)


def test_ground_truth_with_too_few_lines_is_refused(ilsvrc: Path) -> None:
    add_devkit(ilsvrc, "map_clsloc.txt")
    truth = ilsvrc / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n")
    with pytest.raises(DataError, match=r"val_00000003.JPEG: .* has 2 lines, and none is for this file name"):
        image_folder(ilsvrc)
    truth.write_text("1\ntwo\n")
    with pytest.raises(DataError, match="must hold one number a line"):
        image_folder(ilsvrc)


def test_flat_folder_without_a_list_is_refused(ilsvrc: Path) -> None:
    with pytest.raises(DataError, match=r"val is flat, and neither LOC_val_solution.csv nor"):
        image_folder(ilsvrc)


def test_unlisted_picture_is_named(ilsvrc: Path, picture: Write) -> None:
    add_solution(ilsvrc)
    picture(ilsvrc / "ILSVRC" / "Data" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000009.JPEG")
    with pytest.raises(DataError, match=r"val_00000009.JPEG has no class"):
        image_folder(ilsvrc)


def test_class_unknown_to_training_is_named(ilsvrc: Path) -> None:
    add_solution(ilsvrc)
    shutil.rmtree(ilsvrc / "ILSVRC" / "Data" / "CLS-LOC" / "train" / WNIDS[1])
    with pytest.raises(DataError, match=r"val_00000003.JPEG is of class n01443537, which train/ does not have"):
        image_folder(ilsvrc)


def test_stray_validation_class_is_named(folder: Path, picture: Write) -> None:
    picture(folder / "val" / "wasp" / "0.png")
    with pytest.raises(DataError, match=r"val/wasp is a class that train/ does not have"):
        image_folder(folder)


def test_empty_class_is_named(folder: Path) -> None:
    (folder / "train" / "cow").mkdir()
    with pytest.raises(DataError, match=r"train/cow holds no picture"):
        image_folder(folder)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("train", r"has neither train/<class>/ nor ILSVRC/Data"),
        ("val", r"val is not there; held-out pictures belong into val/<class>/"),
    ],
)
def test_missing_half_is_named(folder: Path, remove: str, message: str) -> None:
    shutil.rmtree(folder / remove)
    with pytest.raises(DataError, match=message):
        image_folder(folder)


def test_train_without_classes_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()
    with pytest.raises(DataError, match=r"train has no class folders"):
        image_folder(folder)


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp", ".bmp", ".PNG"])
def test_opened_pictures_outlive_their_files(folder: Path, picture: Write, suffix: str) -> None:
    path = picture(folder / "train" / "ant" / f"a{suffix}", seed=5)
    data = image_folder(folder)
    image = data.train.open([path.stem for path in data.train.paths].index("a"))  # type: ignore[attr-defined]
    path.unlink()
    assert to_rgb(image).size == (40, 32)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_picture_is_named_when_it_is_opened(folder: Path, damage: str) -> None:
    path = folder / "val" / "ant" / "0.jpg"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"this is no JPEG"}[damage])
    with pytest.raises(DataError, match=r"val/ant/0.jpg is not a readable picture .*; repair or remove it"):
        image_folder(folder).held_out.open(0)
