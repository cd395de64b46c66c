"""Puts what is written in C into the wheel, where there is a C compiler; without one the wheel has none of it.

The library is plain C, loaded by ctypes, so that one wheel serves every version of Python on a platform.
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface):
    """Runs skipvit/native/build.py before a wheel is packed, or an editable install is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles in place, and says what the wheel then is for."""
        native = Path(self.root) / "skipvit" / "native"
        spec = importlib.util.spec_from_file_location("skipvit_native_build", native / "build.py")
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            build.compile_library()
        except build.NotCompiled as error:
            self.app.display_warning(f"pictures will be resized by Pillow, which is slower: {error}")
            return
        build_data["artifacts"].append(build.LIBRARY.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
