"""What lies in a model repository, looked at without reading it: versions, and fingerprints that tell a change.

Everything works by names, sizes and times. Bind mounts and network file systems do not tell of changes by themselves,
and hashes of gigabytes are for the moment a version is loaded.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from serve.settings import Settings
from skipvit.artifacts import LABELS, MANIFEST, TRITON_CONFIG, model_names, versions_of

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change in ns and inode of each file; empty while it is not complete, see ``fingerprint_of``."""
Folder = Mapping[str, Mapping[int, Fingerprint]]
"""Fingerprints by name and version."""


def fingerprint_of(folder: Path) -> Fingerprint:
    """The fingerprint of a version's folder and its model's labels.

    A folder is complete with its manifest, which is written last, or if it holds a graph that is not ours.
    """
    files = [folder.parent / LABELS]
    try:
        files += [Path(file.path) for file in os.scandir(folder)]
    except OSError:
        return ()
    if folder / MANIFEST not in files:
        if not is_foreign(folder):
            return ()
        files.append(folder.parent / TRITON_CONFIG)
    found = []
    for file in sorted(files):
        try:
            known = file.stat()
        except OSError:  # there are no labels, or it is gone since
            continue
        found.append((file.name, known.st_size, known.st_mtime_ns, known.st_ino))
    return tuple(found)


def is_foreign(folder: Path) -> bool:
    """Whether a version's folder holds a model that is not ours: a graph, and no manifest in any version of it.

    One manifest makes a model ours: a version of it without one was not copied to its end.
    """
    if not any(folder.glob("*.onnx")):
        return False
    return not any((folder.parent / str(version) / MANIFEST).exists() for version in versions_of(folder.parent))


def look_into(root: Path) -> Folder:
    """Everything that lies in a repository.

    Raises:
        OSError, ArtifactMissing: it cannot be looked into.
    """
    return {
        name: {version: fingerprint_of(root / name / str(version)) for version in versions_of(root / name)}
        for name in model_names(root)
    }


def chosen(name: str, versions: Iterable[int], settings: Settings) -> list[int]:
    """Those of the ``versions`` of a model that are to be served, ascending."""
    present, policy = sorted(versions), settings.of(name).versions
    if policy == "latest":
        return present[-1:]
    return present if policy == "all" else [version for version in present if version in policy]
