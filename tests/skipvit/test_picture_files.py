"""Pictures of the user's: which are found, in which order, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipvit import picture_files
from skipvit.transforms import Preprocessing


def test_pictures_are_found_in_order_and_opened_as_the_model_takes_them(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.png", "b/1.PNG", "a.jpg"):
        Image.new("L", (20, 10), 77).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    paths = picture_files.pictures_in(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["a.jpg", "b/1.PNG", "b/2.png"]
    pixels = picture_files.open_picture(paths[1], Preprocessing(height=4, width=6))
    np.testing.assert_array_equal(pixels, np.full((4, 6, 3), 77, np.uint8))
    with pytest.raises(picture_files.OriginError, match="nowhere cannot be read"):
        picture_files.pictures_in(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(picture_files.OriginError, match="holds no picture"):
        picture_files.pictures_in(tmp_path / "empty")


def test_what_only_has_a_picture_s_name_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / ".thumbnails" / "photo.jpg")
    (tmp_path / "._photo.jpg").write_bytes(b"what macOS leaves on foreign disks")
    Image.new("RGB", (4, 4)).save(tmp_path / "folder.png" / "photo.jpg")
    assert picture_files.pictures_in(tmp_path) == [tmp_path / "folder.png" / "photo.jpg"]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "photo.jpg")
    honest = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("closed"):  # as for anybody but root, whose tests these may be
            raise PermissionError(13, "Permission denied", str(folder))
        return honest(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(picture_files.OriginError, match=r"closed cannot be read \(Permission denied\)"):
        picture_files.pictures_in(tmp_path)


def test_pictures_too_large_to_decode_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(picture_files.OriginError, match=r"large\.png cannot be read as a picture \(Image size"):
        picture_files.open_picture(tmp_path / "large.png", Preprocessing(height=4, width=6))
