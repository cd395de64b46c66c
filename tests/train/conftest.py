"""A tiny recipe and tiny picture folders for the tests of the training room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

TINY = """
[model]
name = "skipat_micro_patch2_8"
args = { embed_dim = 16, depth = 3, num_heads = 2, skip = [1], drop_path_rate = 0.2 }
[data]
uri = "builtin:digits"
image_size = 8
resize = "squash"
interpolation = "box"
[augment]
kind = "digits"
[optim]
lr = 2e-3
clip_norm = 1.0
label_smoothing = 0.1
ema_decay = 0.9
[schedule]
epochs = 2
warmup_epochs = 0.2
[run]
batch = 64
steps = 12
save_every = 4
log_every = 1
device = "cpu"
threads = 1
"""

TINY_DENOISER = """
task = "denoising"
[model]
name = "skipat_uformer_micro"
args = { embed_dim = 8, drop_path_rate = 0.1 }
[data]
uri = "gaussian:FOLDER"
patch = 16
patches_per_epoch = 24
[noise]
kinds = ["gaussian", "poisson-gaussian", "jpeg"]
[augment]
permute_channels = true
mixup = 1.2
mixup_after = 1
[optim]
lr = 2e-3
clip_norm = 1.0
ema_decay = 0.9
[schedule]
epochs = 2
warmup_epochs = 0.2
[run]
batch = 4
save_every = 4
log_every = 1
device = "cpu"
threads = 1
"""

# Overrides that make the tiny recipe a guided DGSSA + GLAD whose λ is 1 from step 7 of 44 on.
GUIDED = [
    "model.name=dgssa_glad_micro_patch2_8",
    'model.args={embed_dim=16, depth=3, num_heads=2, spec="static:0-1 tokens:1/2@2", drop_path_rate=0.2}',
    "guide.ramp=0.16",
    "guide.weight=2.0",
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread per test, and none of what a program tells OpenMP outlives its test."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture(scope="session")
def guided() -> list[str]:
    return GUIDED


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A recipe of 12 steps of a 3-block SkipAt on the digits, with everything random that a recipe can have."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_denoiser(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    """A recipe of 12 steps of a narrow SkipAt-Uformer, with all that is random, on five generated pictures."""
    for i in range(5):
        picture(tmp_path / "clean" / f"{'abcde'[i]}.png", seed=i)
    path = tmp_path / "tiny_denoiser.toml"
    path.write_text(TINY_DENOISER.replace("FOLDER", str(tmp_path / "clean")))
    return path


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Writes a generated photograph-like picture; classes differ in hue so that there is something to learn."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (size[1], size[0], 3)) // 2 + rng.integers(0, 128, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def davis_copy(tmp_path: Path) -> Callable[..., Path]:
    """Writes a copy of DAVIS: lists, and 4 frames a sequence whose pixels tell frame, row and column."""

    def write(height: int = 20, width: int = 30, **lists: list[str]) -> Path:
        for name, sequences in lists.items():
            path = tmp_path / "davis/ImageSets/2017" / f"{name.replace('_', '-')}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(sequences) + "\n")
            for sequence in sequences:
                folder = tmp_path / "davis/JPEGImages/480p" / sequence
                folder.mkdir(parents=True, exist_ok=True)
                for t in range(4):
                    place = np.mgrid[t : t + 1, :height, :width]  # (3, 1, height, width)
                    Image.fromarray(np.moveaxis(place, 0, -1)[0].astype(np.uint8)).save(folder / f"{t:05d}.png")
        return tmp_path / "davis"

    return write


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    """train/{ant,bee}/*.png and val/{ant,bee}/*.png, 8 and 2 pictures a class, plus files that are no pictures."""
    root = tmp_path / "pictures"
    for c, name in enumerate(("bee", "ant")):
        for i in range(8):
            picture(root / "train" / name / f"{i}.png", seed=10 * c + i)
        for i in range(2):
            picture(root / "val" / name / f"{i}.jpg", seed=100 + 10 * c + i)
    (root / "train" / "ant" / "notes.txt").write_text("no picture")
    (root / "train" / "ant" / ".hidden.png").write_text("no picture either")
    return root
