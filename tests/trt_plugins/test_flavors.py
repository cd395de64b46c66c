"""Which TensorRT is opened, and what is said where there is none."""

import importlib
import importlib.util
import os
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from trt_plugins import flavors


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which modules are there; an exception in place of a module is what its import raises."""

    def install(**modules: Any) -> None:
        def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
            return ModuleSpec(name, None, origin=getattr(modules[name], "__file__", None)) if name in modules else None

        def import_module(name: str, package: str | None = None) -> Any:
            if isinstance(modules[name], Exception):
                raise modules[name]
            return modules[name]

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(importlib, "import_module", import_module)

    return install


def fake(version: str, file: Path | None = None) -> types.SimpleNamespace:
    return types.SimpleNamespace(__version__=version, __file__=str(file))


BROKEN = ImportError("libnvinfer.so.11: cannot open shared object file: No such file or directory")


def test_auto_prefers_full_tensorrt(installed: Callable[..., None]) -> None:
    installed(tensorrt=fake("11.4.0.106"), tensorrt_rtx=fake("1.7.1.116"))
    opened = flavors.open_tensorrt()
    assert (opened.flavor, opened.version) == ("tensorrt", "11.4.0.106")
    assert flavors.open_tensorrt("tensorrt-rtx").flavor == "tensorrt-rtx"


def test_auto_takes_rtx_where_full_tensorrt_is_missing_or_broken(installed: Callable[..., None]) -> None:
    installed(tensorrt_rtx=fake("1.7.1.116"))
    assert flavors.open_tensorrt().flavor == "tensorrt-rtx"
    installed(tensorrt=BROKEN, tensorrt_rtx=fake("1.7.1.116"))
    assert flavors.open_tensorrt().flavor == "tensorrt-rtx"


def test_a_broken_library_is_told_in_the_loaders_words(installed: Callable[..., None]) -> None:
    installed(tensorrt=BROKEN)
    with pytest.raises(flavors.TensorrtMissing, match=r"libnvinfer\.so\.11: cannot open .*\[trt\]"):
        flavors.open_tensorrt("tensorrt")


def test_what_is_not_installed_is_named_with_its_command(installed: Callable[..., None]) -> None:
    installed()
    with pytest.raises(flavors.TensorrtMissing, match=r"^tensorrt_rtx is not .*: pip install 'skipvit\[trt-rtx\]'$"):
        flavors.open_tensorrt("tensorrt-rtx")
    with pytest.raises(flavors.TensorrtMissing, match=r"(?s)skipvit\[trt\].*skipvit\[trt-rtx\]"):
        flavors.open_tensorrt()


@pytest.fixture
def wheel(tmp_path: Path, installed: Callable[..., None]) -> Path:
    """The folder of a wheel of TensorRT-RTX as it is published."""
    (tmp_path / "libtensorrt_rtx.so.1").touch()
    installed(tensorrt_rtx=fake("1.7.1.116"), tensorrt_rtx_libs=fake("", tmp_path / "__init__.py"))
    return tmp_path


def test_the_name_that_the_parser_opens_is_made_once(wheel: Path) -> None:
    for _ in range(2):
        flavors.open_tensorrt("tensorrt-rtx")
    assert os.readlink(wheel / "libtensorrt_rtx.so") == "libtensorrt_rtx.so.1"


def test_a_folder_that_cannot_be_written_to_is_told_with_the_command(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    command = f"ln -s libtensorrt_rtx.so.1 {wheel}/libtensorrt_rtx.so"
    with pytest.raises(flavors.TensorrtMissing, match=f"Permission denied.* {command}$"):
        flavors.open_tensorrt("tensorrt-rtx")
