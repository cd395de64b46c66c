"""The peers' own virtual environment: made once from requirements.txt, and kept in the user's cache folder."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from trt_plugins.cubins import cache_folder

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_PACKAGES = 120  # about as many as pip collects


class NoEnvironment(Exception):
    """The peers' packages could not be installed; the message has pip's last words."""


def python_of_peers() -> Path:
    """Returns the interpreter of the peers' environment, which is made if it is not there.

    Raises:
        NoEnvironment: it could not be made; nothing half made is left.
    """
    name = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder().parent / f"peers-{name}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
            _install(python)
            complete.touch()
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoEnvironment(f"{folder}: {error}") from None
        finally:
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
    return python


def _install(python: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--progress-bar=off", "--requirement", str(REQUIREMENTS)]
    last: list[str] = []
    with (
        tqdm(total=_PACKAGES, desc="installing the peers", unit="package", leave=False) as bar,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        for line in pip.stdout or ():
            last = [*last[-4:], line.strip()]
            bar.update(line.startswith("Collecting"))
    if pip.returncode != 0:
        raise NoEnvironment(f"pip ended with status {pip.returncode}: {' '.join(last)}")
