"""Watching a model repository: two looks at its folder say what came, what changed and what is gone.

A version is acted on when two looks in a row find it the same: a copy that is still being written differs from one
look to the next. Removals too must be seen twice, and a folder that is empty altogether was unmounted, not emptied.
"""

from collections.abc import Mapping

from serve.models.folder import Fingerprint, Folder, chosen
from serve.models.repository import Key
from serve.settings import Settings


class Watch:
    """Remembers the last two looks, and decides by them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before: Folder = {}
        self._now: Folder = {}
        self._in_sight = True
        self._kept: set[Key] = set()

    def look(self, folder: Folder) -> None:
        """Takes the next look."""
        self._before, self._now = self._now, folder
        self._in_sight = True

    def lost_sight(self) -> bool:
        """Says that a look failed; whether it is the first to do so."""
        was, self._in_sight = self._in_sight, False
        return was

    def to_load(self, served: Folder, tried: Mapping[Key, Fingerprint]) -> list[Key]:
        """Versions that are wanted and complete, and neither served nor tried as they are now."""
        return [
            (name, version)
            for name in self._now
            for version in self._wanted(name, served)
            if self._steady(name, version)
            and self._now[name][version] not in (served.get(name, {}).get(version), tried.get((name, version)))
        ]

    def surplus(self, served: Folder) -> list[Key]:
        """Served versions that are not wanted any more. One stays while what is wanted in its place is not served."""
        if not self._now or not self._before:
            return []
        surplus = []
        for name, versions in served.items():
            wanted = self._wanted(name, served)
            if wanted and not any(version in versions for version in wanted):
                continue
            surplus += [
                (name, version)
                for version in versions
                if version not in wanted and version not in chosen(name, self._before.get(name, {}), self._settings)
            ]
        return surplus

    def first_time_kept(self, name: str, version: int) -> bool:
        """Whether it is news that this version is kept although it is surplus."""
        news = (name, version) not in self._kept
        self._kept.add((name, version))
        return news

    def _wanted(self, name: str, served: Folder) -> list[int]:
        """Versions to be served. A folder without a manifest is not one yet, or is just being replaced if served."""
        versions = self._now.get(name, {})
        complete = [v for v, fingerprint in versions.items() if fingerprint or v in served.get(name, {})]
        return chosen(name, complete, self._settings)

    def _steady(self, name: str, version: int) -> bool:
        fingerprint = self._now[name][version]
        return bool(fingerprint) and fingerprint == self._before.get(name, {}).get(version)
