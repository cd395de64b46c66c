"""A generated SIDD: its folders and names, small pictures, and validation blocks as MATLAB writes them."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

INSTANCES = ("0001_001_S6_00100_00060_3200_L", "0002_001_GP_00800_00350_5500_N")


def write_sidd(root: Path, size: tuple[int, int] = (48, 40), block: int = 32) -> Path:
    """Two instances of two pairs each, and 2 x 3 validation blocks."""
    rng = np.random.default_rng(0)
    for instance in INSTANCES:
        folder = root / "SIDD_Medium_Srgb" / "Data" / instance
        folder.mkdir(parents=True)
        for number in ("010", "011"):
            clean = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
            for kind, pixels in (("GT", clean), ("NOISY", noisy)):
                Image.fromarray(pixels).save(folder / f"{instance[:4]}_{kind}_SRGB_{number}.PNG")
    clean = rng.integers(0, 256, (2, 3, block, block, 3), dtype=np.uint8)
    noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    for kind, blocks in (("Gt", clean), ("Noisy", noisy)):
        name = f"Validation{kind}BlocksSrgb"
        savemat(root / f"{name}.mat", {name: blocks}, do_compression=True)
    return root
