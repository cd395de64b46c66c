"""Models in groups, and what is asked of them."""

from pathlib import Path

from serve.models.settings import GroupSettings
from serve.settings import Settings
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import png, write_model

CLASSIFY = "/v1/classify"
WHITE = png(255)
OIP_REQUEST = {"inputs": [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [255] * 192}]}


def write_variants(root: Path) -> None:
    """Classifiers that answer alike, one of which takes larger pictures, and denoisers."""
    for name in ("good", "better", "best"):
        write_model(root, name)
    write_model(root, "large", side=16)
    write_denoiser(root, "clean")
    write_denoiser(root, "cleaner")


def grouped(default: bool = False) -> Settings:
    """Of a server with three groups of them, with objectives that no machine misses."""
    groups = {
        "shades": GroupSettings(variants=["best", "better", "good"], p99_ms=60_000, default=default),
        "sizes": GroupSettings(variants=["large", "good"], p99_ms=60_000),
        "photos": GroupSettings(variants=["cleaner", "clean"], p99_ms=60_000),
    }
    return Settings(decode_threads=2, tile_threads=1, groups=groups)
