"""One engine from recipe to place: found there, or built, compared, and published; or nothing is left of it."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from export.engine_build import build
from export.engine_recipe import Recipe
from export.engine_verify import verified
from export.measures import ParityError
from skipvit.manifest import Engine, Parity
from skipvit.publishing import why_unwritable

_BUILDING = ".building-"
_LONGEST_S = 24 * 3600  # no build takes longer


@dataclasses.dataclass(frozen=True)
class Made:
    """An engine in its place.

    Attributes:
        layers: number of layers by type, None where the engine was there already.
        why_not: why it was not run, where it was not.
    """

    engine: Engine
    place: Path
    layers: Mapping[str, int] | None
    why_not: str


def make(recipe: Recipe, *, force: bool, compare: bool, images: Path | None) -> Made:
    """Builds an engine, unless it is there, and compares it, unless it has been.

    Args:
        force: build it even if it is there.
        compare: run it where there is a GPU for it.
        images: folder of pictures to compare on instead of the entry's.

    Raises:
        BuildError, EngineError, ParityError: there is no engine, or none that can be trusted; no such one is left.
        OriginError: the pictures cannot be read.
        OSError: the folder cannot be written to.
    """
    known = None if force else recipe.already_built()
    place = recipe.target.folder / recipe.file
    if known is not None and recipe.vouched_for(known):
        return Made(known, place, None, "")
    if why := why_unwritable(recipe.target.folder):
        raise OSError(None, why, str(recipe.target.folder))
    if known is not None:
        parity, why_not = _compared(recipe, place, compare, images)
        if parity is not None:
            known = recipe.verified(known, parity)
            recipe.target.publish(place, known)
        return Made(known, place, None, why_not)
    _sweep(recipe.target.folder)
    with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=recipe.target.folder) as folder:
        plan = Path(folder) / recipe.file
        built = build(dataclasses.replace(recipe.job, plan=str(plan)), recipe.file)
        parity, why_not = _compared(recipe, plan, compare, images)
        engine = recipe.record(built, parity)
        return Made(engine, recipe.target.publish(plan, engine), built.layers, why_not)


def _sweep(folder: Path) -> None:
    """Takes away what runs that were killed left behind; one that is younger may still build."""
    for left in folder.glob(f"{_BUILDING}*"):
        if time.time() - left.stat().st_mtime > _LONGEST_S:
            shutil.rmtree(left, ignore_errors=True)


def _compared(recipe: Recipe, plan: Path, compare: bool, images: Path | None) -> tuple[Parity | None, str]:
    if not compare:
        return None, "--no-parity was given"
    try:
        return verified(recipe, plan, images)
    except ParityError:
        before = recipe.target.known(recipe.file)
        in_its_place = plan == recipe.target.folder / recipe.file
        if in_its_place or before is None or before.status != "verified":
            recipe.target.withdraw(recipe.file)  # what lies there unverified, from an earlier run, is no better
        raise
