"""Writing into a model repository, and elsewhere: a file or a folder appears complete, or not at all."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skipvit.artifacts import MANIFEST, ArtifactError, check_version, sha256_of, versions_of
from skipvit.manifest import check_name


def next_version(root: Path, name: str) -> int:
    """The version number that the next export of ``name`` gets: 1, or one more than the latest."""
    versions = versions_of(root / check_name(name))
    return versions[-1] + 1 if versions else 1


@contextmanager
def new_version(root: Path, name: str, version: int) -> Iterator[Path]:
    """Yields an empty folder to write a version into; it takes its place only if the block succeeds.

    Raises:
        ArtifactError: that version exists already, or appears meanwhile.
        ValueError: the name or the version cannot be used.
    """
    with new_folder(root / check_name(name) / str(check_version(version)), "--version") as staging:
        yield staging


@contextmanager
def new_folder(target: Path, option: str = "--out") -> Iterator[Path]:
    """Yields an empty folder beside ``target`` to write into; it takes that name only if the block succeeds.

    Args:
        option: of the program, with which the user can give another target.

    Raises:
        ArtifactError: the target exists already, or appears meanwhile.
    """
    if target.exists():
        raise ArtifactError(f"{target} exists; give another {option}, or remove that folder first")
    made_parent = not target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
    try:
        staging.chmod(0o755)  # mkdtemp makes 0700, which a server under another user could not read
        yield staging
        try:
            staging.rename(target)
        except OSError as error:
            raise ArtifactError(
                f"{target} was written by another run meanwhile ({error.strerror}); run again"
            ) from None
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if made_parent:
            with suppress(OSError):  # leaves the folder when somebody else wrote into it meanwhile
                target.parent.rmdir()
        raise


def why_unwritable(folder: Path) -> str:
    """Why no file could be written into a folder that need not exist yet, or "": to be asked before a long work."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
        if not there.is_dir():
            return f"{there} is {'a file' if there.exists() else 'a link to nowhere'}; give a folder"
    except OSError as error:
        return f"{error.strerror}; give another folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written to; give another folder"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then renames it into place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in ``folder`` but the manifest, which will hold them."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
