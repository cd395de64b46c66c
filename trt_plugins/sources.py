"""What our plugins are made of, as one number: an engine with other ones in it is another engine."""

import hashlib
from pathlib import Path

# Of the package, what a kernel's code and its launch come from; how engines are opened and run is not among it.
_FOLDERS = ("kernels", "operators")
_FILES = ("cubins.py", "on_device.py", "plugin_op.py", "plugin_v3.py", "quick_plugin.py", "symbols.py")
_SUFFIXES = (".py", ".cu", ".cuh", ".h")


def sources_hash() -> str:
    """SHA-256 of it, as hex."""
    root = Path(__file__).parent
    paths = [path for folder in _FOLDERS for path in (root / folder).rglob("*") if path.suffix in _SUFFIXES]
    digest = hashlib.sha256()
    for path in sorted([*paths, *(root / name for name in _FILES)]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
