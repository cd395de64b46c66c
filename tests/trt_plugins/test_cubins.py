"""What is compiled and what is taken from the cache, and what is said where nothing compiles."""

import builtins
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from trt_plugins import cubins
from trt_plugins.operators.eca_gate import OP
from trt_plugins.plugin_op import KERNELS, PluginOp


class Counting:
    """A compiler that counts what it is asked for."""

    version = "counting 1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def compile(self, source: str, name: str, kind: Literal["cubin", "ptx"], options: list[str]) -> bytes:
        self.asked.append(name)
        return b"code " * 100


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counting:
    made = Counting()
    monkeypatch.setattr(cubins, "_compiler", lambda: made)
    monkeypatch.setenv("SKIPVIT_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def no_memory_of_the_compiler() -> Iterator[None]:
    cubins._compiler.cache_clear()
    yield
    cubins._compiler.cache_clear()


def test_code_is_compiled_once(compiler: Counting) -> None:
    first = cubins.cubin(OP, "f16", 90)
    assert cubins.cubin(OP, "f16", 90) == first == b"code " * 100
    assert compiler.asked == ["eca_gate.cu"]
    (kept,) = cubins.cache_folder().iterdir()
    assert kept.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("change", [{"scalar": "bf16"}, {"architecture": 80}, {"constants": {"TAPS": 3}}])
def test_whatever_goes_into_code_is_part_of_its_key(compiler: Counting, change: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"op": OP, "scalar": "f16", "architecture": 90}
    cubins.cubin(**usual)
    cubins.cubin(**usual | change)
    assert len(compiler.asked) == 2


def test_headers_and_the_compiler_are_part_of_the_key(
    compiler: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    shutil.copytree(KERNELS, folder)
    op = PluginOp(**{**vars(OP), "folder": folder})
    monkeypatch.setattr(cubins, "KERNELS", folder)
    cubins.cubin(op, "f16", 90)
    (folder / "device.cuh").write_text("// another")
    cubins.cubin(op, "f16", 90)
    compiler.version = "counting 2"
    cubins.cubin(op, "f16", 90)
    assert len(compiler.asked) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "open to others", "a folder", "another user's"])
def test_a_file_that_is_not_as_it_was_written_is_not_taken(
    compiler: Counting, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = cubins.cubin(OP, "f16", 90)
    (kept,) = cubins.cache_folder().iterdir()
    content = kept.read_bytes()
    if damage == "open to others":
        kept.chmod(0o666)
    elif damage == "another user's":
        owner = kept.stat().st_uid
        if owner == 0:
            os.chown(kept, 1, -1)
        else:
            monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    elif damage == "a folder":
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_bytes({"cut": content[:200], "empty": b"", "changed": content[:-1] + b"x"}[damage])
    assert cubins.cubin(OP, "f16", 90) == code
    assert len(compiler.asked) == 2
    assert not [path for path in cubins.cache_folder().iterdir() if path.name.startswith(".")]


def test_a_cache_that_cannot_be_written_only_costs_time(
    compiler: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SKIPVIT_CACHE", str(tmp_path / "file"))
    assert cubins.cubin(OP, "f16", 90) == b"code " * 100


def test_without_a_home_it_is_said_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKIPVIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 17)
    with pytest.raises(cubins.CompileError, match=r"no home folder .* name a folder in SKIPVIT_CACHE"):
        cubins.cache_folder()


@pytest.mark.usefixtures("no_memory_of_the_compiler")
def test_without_a_compiler_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_nvrtc(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cubins.CompileError, match=r"need NVRTC or nvcc; run: pip install 'skipvit\[cuda\]'"):
        cubins.cubin(OP, "f16", 90)


@pytest.mark.usefixtures("no_memory_of_the_compiler")
def test_nvcc_compiles_where_nvrtc_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    _without_nvrtc(monkeypatch)
    monkeypatch.setenv("SKIPVIT_CACHE", str(tmp_path))
    assert cubins.cubin(OP, "f16", 90).startswith(b"\x7fELF")
    assert cubins.parameters_of(cubins.ptx(OP, "f16", 90), OP.entry("f16"))
    with pytest.raises(cubins.CompileError, match=r"(?s)eca_gate\.cu does not compile with .*nvcc.*error"):
        cubins.cubin(OP, "f16", 90, {"MOST_THREADS": 0})


def _without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
