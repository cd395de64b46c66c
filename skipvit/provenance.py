"""Which software made an artefact: package versions, commit, machine."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import skipvit


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Version of Python, of skipvit and of each installed package among ``packages``."""
    found = {"python": platform.python_version(), "skipvit": skipvit.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """Short commit of the source tree, with ``+dirty`` where it differs from it; ``unknown`` outside git."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed, and git would speak of whatever repository lies around it
        return "unknown"
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=10", "--dirty=+dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip() or "unknown"


def machine() -> str:
    """Processor model and the number of CPUs this process may use, e.g. ``AMD EPYC 9B14, 2 CPUs``."""
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPUs"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
