"""Any folder of clean pictures, to which Gaussian noise is added: ``gaussian:/path?sigma=25``.

Held out are the pictures of its folder val/, and train/ is trained on; where it has not both, every tenth picture by
name is held out. Without ``sigma``, the recipe's [noise] says what is added.
"""

from pathlib import Path

from train.image_folder import list_pictures
from train.noise import Levels, read_levels
from train.photographs import NoisyData, PictureFiles
from train.pictures import DataError

EVERY = 10


def clean_folder(rest: str) -> NoisyData:
    """Opens ``/path?sigma=...``.

    Raises:
        DataError: the folder or the sigma cannot be used.
    """
    place, _, query = rest.partition("?")
    base = Path(place).expanduser()
    if not base.is_dir():
        raise DataError(f"gaussian:{place}: there is no such folder")
    sigma = _sigma(query, rest)
    if (base / "train").is_dir() and (base / "val").is_dir():
        train, held_out = tuple(list_pictures(base / "train")), tuple(list_pictures(base / "val"))
    else:
        train, held_out = split(list_pictures(base))
    for part, where in ((train, "train on"), (held_out, "hold out")):
        if not part:
            raise DataError(f"{base} has no picture to {where}; it needs two at least, or some in train/ and in val/")
    name = f"{len(held_out)} pictures of {base}"
    return NoisyData(f"gaussian:{rest}", PictureFiles(train), PictureFiles(held_out), name, sigma=sigma)


def split(paths: list[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What to train on, and every tenth, the first of all with them, to hold out."""
    return tuple(path for i, path in enumerate(paths) if i % EVERY), tuple(paths[::EVERY])


def _sigma(query: str, rest: str) -> Levels | None:
    if not query:
        return None
    key, _, text = query.partition("=")
    if key != "sigma":
        raise DataError(f"gaussian:{rest}: after the question mark stands sigma=25, sigma=15,25,50 or sigma=5-50")
    try:
        return read_levels(text, 0, 255)
    except ValueError as error:
        raise DataError(f"gaussian:{rest}: {error}") from None
