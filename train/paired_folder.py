"""Pictures in pairs: noisy ones, and clean ones under the same names in a folder beside theirs.

Noisy are those in noisy/, input/, input_crops/ or lq/, clean those in clean/, groundtruth/, gt/ or gt_crops/. These
two folders lie in train/ and again in val/ or test/; where they lie in the folder itself, every tenth pair by name is
held out.
"""

from collections.abc import Iterator
from pathlib import Path

from train.clean_folder import split
from train.image_folder import list_pictures
from train.photographs import NoisyData, PictureFiles
from train.pictures import DataError

_NOISY = ("noisy", "input", "input_crops", "lq")
_CLEAN = ("clean", "groundtruth", "gt", "gt_crops")


def paired_folder(root: str) -> NoisyData:
    """Opens such a folder.

    Raises:
        DataError: it is not there, is laid out otherwise, or a picture has no partner.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"pairs:{root}: there is no such folder")
    parts = [base / name for name in ("val", "test") if is_paired(base / name)]
    if is_paired(base / "train") and parts:
        train, held_out = pairs_in(base / "train"), pairs_in(parts[0])
    elif is_paired(base):
        everything = pairs_in(base)
        partner = dict(zip(everything.clean, everything.noisy, strict=True))
        train, held_out = (
            PictureFiles(clean, tuple(partner[path] for path in clean)) for clean in split(list(everything.clean))
        )
        if not train.clean:
            raise DataError(f"{base} has one pair only, and one must be held out; it needs two at least")
    else:
        raise DataError(
            f"{base} holds no pairs; put noisy pictures into noisy/ and clean ones of the same names into clean/, "
            "there or in its folders train/ and val/"
        )
    name = f"{len(held_out.clean)} pairs of {base}"
    return NoisyData(f"pairs:{root}", train, held_out, name, paired=True)


def is_paired(folder: Path) -> bool:
    """Whether a folder has both folders in it."""
    return all(any((folder / name).is_dir() for name in names) for names in (_NOISY, _CLEAN))


def pairs_in(folder: Path) -> PictureFiles:
    """The pairs of a folder that ``is_paired``, by name; an extension may differ within a pair.

    Raises:
        DataError: there are none, or a picture has no partner.
    """
    noisy, clean = (
        dict(_by_name(next(folder / name for name in names if (folder / name).is_dir()))) for names in (_NOISY, _CLEAN)
    )
    if alone := sorted(noisy.keys() ^ clean.keys()):
        where = "noisy" if alone[0] in noisy else "clean"
        raise DataError(
            f"{folder}: of {len(alone)} pictures there is only one of the two, the first is {alone[0]}, {where}; "
            "give both the same name"
        )
    if not clean:
        raise DataError(f"{folder} holds no pictures")
    return PictureFiles(tuple(clean.values()), tuple(noisy[name] for name in clean))


def _by_name(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in list_pictures(folder):
        yield str(path.relative_to(folder).with_suffix("")), path
