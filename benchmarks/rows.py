"""CSV rows that carry their circumstances: machine, versions, commit, date."""

import csv
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skipvit import provenance

RESULTS = Path(__file__).resolve().parent / "results"
_CIRCUMSTANCES = ("machine", "versions", "commit", "date")


def write_rows(
    what: str,
    rows: Iterable[Mapping[str, object]],
    packages: Iterable[str],
    folder: Path = RESULTS,
    *,
    machine: str | None = None,
    commit: str | None = None,
    keys: Sequence[str] = (),
) -> Path:
    """Writes ``<what>_<machine>_<yyyymm>.csv`` in place of this month's file of the same machine.

    Args:
        what: name of the benchmark.
        rows: one mapping a row, all with the same columns; units are in the column names.
        packages: packages whose versions matter to the figures.
        machine: what was measured on, where that is not the processor.
        commit: of the source, where it lies outside git.
        keys: columns that tell rows apart; rows of the file before whose values in them are not among the new ones
            stay. Without keys none stays.
    """
    today = datetime.datetime.now(datetime.UTC).date()
    found = provenance.versions_of(packages)
    circumstances = {
        "machine": machine or provenance.machine(),
        "versions": " ".join(f"{name}={version}" for name, version in found.items()),
        "commit": commit or provenance.commit(),
        "date": today.isoformat(),
    }
    complete: list[Mapping[str, object]] = [{**row, **circumstances} for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(what, folder, machine)
    if keys and path.exists():
        complete = _with_those_before(complete, _read(path), keys)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(complete[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(complete)
    return path


def path_of(what: str, folder: Path = RESULTS, machine: str | None = None) -> Path:
    """Where this month's rows of a benchmark and machine belong; what is drawn of them lies beside them."""
    slug = re.sub(r"[^a-z0-9]+", "-", (machine or provenance.machine()).lower()).strip("-")
    return folder / f"{what}_{slug}_{datetime.datetime.now(datetime.UTC):%Y%m}.csv"


def _with_those_before(
    new: list[Mapping[str, object]], before: list[dict[str, str]], keys: Sequence[str]
) -> list[Mapping[str, object]]:
    def key(row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in keys)

    if before and list(before[0]) != list(new[0]):  # an earlier form of the benchmark
        return new
    taken = set(map(key, new))
    return [row for row in before if key(row) not in taken] + new


def newest(what: str, folder: Path = RESULTS) -> Path | None:
    """The newest file of a benchmark, or None where it was never run."""
    return max(sorted(folder.glob(f"{what}_*.csv")), key=lambda path: _read(path)[0]["date"], default=None)


def read_rows(what: str, folder: Path = RESULTS) -> list[dict[str, str]]:
    """Rows of the newest file of a benchmark, or none where it was never run."""
    path = newest(what, folder)
    return [] if path is None else _read(path)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def print_table(rows: list[Mapping[str, object]]) -> None:
    """The columns of a benchmark's own, aligned."""
    columns = [name for name in rows[0] if name not in _CIRCUMSTANCES]
    cells = [columns, *[[str(row[name]) for name in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
