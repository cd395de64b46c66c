"""SIDD as it is distributed, generated: pairs, blocks, patches, and files that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from tests.train.fake_sidd import INSTANCES, write_sidd
from train import sidd as module
from train.cut_patches import main as cut_patches
from train.photographs import open_photographs
from train.pictures import DataError

NOISY = "ValidationNoisyBlocksSrgb"


def test_whole_pictures_and_blocks(tmp_path: Path) -> None:
    data = open_photographs(f"sidd:{write_sidd(tmp_path)}")
    assert data.paired
    assert data.train.names == ("0001_GT_SRGB_010", "0001_GT_SRGB_011", "0002_GT_SRGB_010", "0002_GT_SRGB_011")
    pair = data.train.open(3)
    folder = tmp_path / "SIDD_Medium_Srgb" / "Data" / INSTANCES[1]
    assert (pair.clean == np.asarray(Image.open(folder / "0002_GT_SRGB_011.PNG"))).all()
    assert (pair.noisy == np.asarray(Image.open(folder / "0002_NOISY_SRGB_011.PNG"))).all()
    assert data.held_out_name == "SIDD validation, 6 blocks"
    assert data.held_out.names[:4] == ("0000_00", "0000_01", "0000_02", "0001_00")
    block = data.held_out.open(4)
    for pixels, kind in ((block.clean, "Gt"), (block.noisy, "Noisy")):
        stored = loadmat(tmp_path / f"Validation{kind}BlocksSrgb.mat")[f"Validation{kind}BlocksSrgb"]
        assert (pixels == stored[1, 1]).all()


def test_pictures_saved_again_may_end_in_small_letters(tmp_path: Path) -> None:
    for file in (write_sidd(tmp_path) / "SIDD_Medium_Srgb").rglob("*.PNG"):
        file.rename(file.with_suffix(".png"))
    assert len(open_photographs(f"sidd:{tmp_path}").train.names) == 4


def test_cut_patches_go_before_whole_pictures(tmp_path: Path) -> None:
    write_sidd(tmp_path)
    assert cut_patches([str(tmp_path), "--size", "16", "--each", "5"]) == 0
    data = open_photographs(f"sidd:{tmp_path}")
    assert len(data.train.names) == 4 * 5
    whole = module.whole_pictures(tmp_path)
    for number, name in enumerate(data.train.names):
        patch, source = data.train.open(number), whole.open(number // 5)
        assert name.startswith(whole.names[number // 5].replace("_GT_SRGB", ""))
        windows = np.lib.stride_tricks.sliding_window_view(source.clean, (16, 16, 3))[:, :, 0]
        [(top, left)] = np.argwhere((windows == patch.clean).all(axis=(2, 3, 4)))
        assert patch.noisy is not None
        assert source.noisy is not None
        assert (patch.noisy == source.noisy[top : top + 16, left : left + 16]).all(), "cut at the same place"


def test_cutting_refuses_what_it_cannot_do_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sidd(tmp_path)
    assert cut_patches([str(tmp_path), "--size", "64"]) == 1
    assert "0001_GT_SRGB_010.PNG is 48 x 40, smaller than patches of 64; lower --size" in capsys.readouterr().err
    assert not (tmp_path / "train").exists()
    assert cut_patches([str(tmp_path), "--size", "16", "--each", "1"]) == 0
    assert cut_patches([str(tmp_path), "--size", "16", "--each", "1"]) == 1
    assert "train exists; give another folder, or remove that folder first" in capsys.readouterr().err


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write_sidd(tmp_path)
    lost = tmp_path / "SIDD_Medium_Srgb" / "Data" / INSTANCES[0] / "0001_NOISY_SRGB_011.PNG"
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match=r"0001_NOISY_SRGB_011.PNG is not there, but the clean picture beside it is"):
        open_photographs(f"sidd:{tmp_path}")
    lost.write_bytes(kept)
    (tmp_path / f"{NOISY}.mat").unlink()
    with pytest.raises(DataError, match=r"has neither ValidationNoisyBlocksSrgb.mat and .* nor val/input/"):
        open_photographs(f"sidd:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({NOISY: np.zeros((2, 3, 32, 32, 3))}, r"holds double \(2, 3, 32, 32, 3\)"),
        ({NOISY: np.zeros((6, 32, 32, 3), np.uint8)}, r"holds uint8 \(6, 32, 32, 3\)"),
        ({NOISY: np.zeros((2, 3, 32, 32, 1), np.uint8)}, r"it needs uint8 \(scenes, blocks, height, width, 3\)"),
        ({NOISY: np.zeros((0, 3, 32, 32, 3), np.uint8)}, "it needs uint8"),
        ({"Other": np.zeros((2, 3, 32, 32, 3), np.uint8)}, r"holds nothing \(\) as ValidationNoisyBlocksSrgb"),
        ({NOISY: np.zeros((2, 2, 32, 32, 3), np.uint8)}, "they must agree"),
        (b"no MATLAB here", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_blocks_that_are_none_are_refused(tmp_path: Path, content: dict[str, np.ndarray] | bytes, message: str) -> None:
    write_sidd(tmp_path)
    path = tmp_path / f"{NOISY}.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(DataError, match=message):
        open_photographs(f"sidd:{tmp_path}")


def test_truncated_blocks_are_refused(tmp_path: Path) -> None:
    write_sidd(tmp_path)
    path = tmp_path / f"{NOISY}.mat"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"ValidationNoisyBlocksSrgb.mat cannot be read \(.*\); fetch it again"):
        open_photographs(f"sidd:{tmp_path}")


def test_blocks_are_bounded_before_they_are_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sidd(tmp_path)
    bomb = np.zeros((2, 30, 256, 256, 3), np.uint8)
    savemat(tmp_path / f"{NOISY}.mat", {NOISY: bomb}, do_compression=True)
    assert (tmp_path / f"{NOISY}.mat").stat().st_size < 100_000
    monkeypatch.setattr(module, "_MAX_BLOCKS", 1 << 20)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("was decompressed"))
    with pytest.raises(DataError, match=r"holds uint8 \(2, 30, 256, 256, 3\)"):
        open_photographs(f"sidd:{tmp_path}")
    monkeypatch.setattr(module, "_MAX_FILE", 1000)
    with pytest.raises(DataError, match="MiB; fetch it again"):
        open_photographs(f"sidd:{tmp_path}")
