"""Compiles what is written in C, with the machine's own compiler: ``python -m skipvit.native.build``.

Installing skipvit does this too, and goes on without where there is no compiler: what is compiled here has a slower
equal in Python's packages. Only the standard library is imported: hatch_build.py runs this before skipvit is installed.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "libskipvit.so"
SOURCES = ("resample.c", "stamp.c")
HEADERS = ("resample_passes.h",)
_COMPILERS = ("cc", "gcc", "clang")


class NotCompiled(Exception):
    """There is no C compiler, or it did not take the sources."""


def compile_library(library: Path = LIBRARY) -> None:
    """Writes ``library``, or leaves none there.

    Raises:
        NotCompiled: with the compiler's own words, if there is one.
    """
    try:
        library.unlink(missing_ok=True)
    except OSError as error:
        raise NotCompiled(f"{library} cannot be replaced: {error}") from None
    if sys.platform == "win32":
        raise NotCompiled("the sources are for GCC and Clang")
    unfinished = library.with_suffix(f".{os.getpid()}.tmp")
    # Rounding is to be as in Pillow's own build: no -ffast-math, and no instructions beyond the platform's own.
    options = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=default", f'-DSKIPVIT_SOURCES="{fingerprint()}"']
    if platform.machine().lower() in ("x86_64", "amd64"):
        options.append("-ffp-contract=off")  # some compilers take CPUs with fused sums for granted; Pillow's did not
    command = [*_compiler(), *options, "-o", str(unfinished), *(str(FOLDER / name) for name in SOURCES), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotCompiled(f"{shlex.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
        unfinished.replace(library)
    except OSError as error:
        raise NotCompiled(f"{command[0]} cannot be run: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def fingerprint() -> str | None:
    """SHA-256 of the sources that lie here, or None where they do not: an installation may have the library only."""
    found = hashlib.sha256()
    for name in sorted((*SOURCES, *HEADERS)):
        try:
            source = (FOLDER / name).read_bytes()
        except OSError:
            return None
        found.update(b"%s %d\n%s" % (name.encode(), len(source), source))
    return found.hexdigest()


def is_current(library: Path) -> bool:
    """Whether a library was compiled from the sources that lie here, if any do. Raises OSError if it cannot be read."""
    sources = fingerprint()
    return sources is None or sources.encode() in library.read_bytes()


def _compiler() -> list[str]:
    """CC's words, or the first compiler that the PATH has."""
    named = shlex.split(os.environ.get("CC", ""))
    found = next((name for name in _COMPILERS if shutil.which(name)), None)
    if not named and found is None:
        raise NotCompiled(
            f"no C compiler: none of {', '.join(_COMPILERS)} is on the PATH (Debian: apt install gcc libc6-dev)"
        )
    return named or [str(found)]


if __name__ == "__main__":
    try:
        compile_library()
    except NotCompiled as error:
        sys.exit(f"error: {error}")
    print(f"compiled {LIBRARY}")
