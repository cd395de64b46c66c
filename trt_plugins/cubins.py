"""Compiles kernels for GPUs, on any machine: NVRTC of the wheel where it is installed, else nvcc. No GPU is needed.

A cubin is machine code for one family of GPUs: unlike PTX it does not depend on how new the driver is. What was
compiled is kept under the user's cache folder by the hash of the source, the options and the compiler, in files that
begin with the hash of what follows.
"""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from trt_plugins.plugin_op import KERNELS, PluginOp, Scalar

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # Turing to Blackwell: compute capability x 10
_FLAGS = ("--std=c++17",)
_DIGEST = 32  # bytes of a SHA-256
_PARAMETERS = {".u64": "pointer", ".b64": "pointer", ".u32": "int32", ".b32": "int32", ".s32": "int32"}


class CompileError(Exception):
    """A kernel cannot be compiled; the message has the compiler's words, or says which compiler to install."""


class Compiler(Protocol):
    """Turns CUDA C++ into a cubin or PTX."""

    @property
    def version(self) -> str:
        """Name and version, part of the cache's key."""

    def compile(self, source: str, name: str, kind: Literal["cubin", "ptx"], options: list[str]) -> bytes:
        """Raises CompileError."""


def cubin(op: PluginOp, scalar: Scalar, architecture: int, constants: Mapping[str, int] | None = None) -> bytes:
    """Machine code of ``op``'s kernel for one architecture, from the cache if it is there.

    Args:
        architecture: compute capability x 10, such as 90.
        constants: what ``op.constants`` gives.

    Raises:
        CompileError: see the class.
    """
    return _compiled(op, scalar, "cubin", f"sm_{architecture}", constants or {})


def ptx(op: PluginOp, scalar: Scalar, architecture: int, constants: Mapping[str, int] | None = None) -> str:
    """The same as PTX, which people and tests can read."""
    return _compiled(op, scalar, "ptx", f"compute_{architecture}", constants or {}).decode().rstrip("\0")


def parameters_of(text: str, entry: str) -> list[str]:
    """The parameters that a kernel takes, read from its PTX: ``pointer`` or ``int32`` each.

    Raises:
        CompileError: there is no such kernel in it, or it takes something else.
    """
    found = re.search(rf"\.entry {re.escape(entry)}\(([^)]*)\)", text)
    if found is None:
        raise CompileError(f"the compiled source has no kernel {entry}")
    kinds = re.findall(r"\.param (?:\.align \d+ )?(\.\w+)", found.group(1))
    unknown = [kind for kind in kinds if kind not in _PARAMETERS]
    if unknown:
        raise CompileError(f"{entry} has a parameter of type {unknown[0]}; kernels take pointers and int32 only")
    return [_PARAMETERS[kind] for kind in kinds]


def _compiled(
    op: PluginOp, scalar: Scalar, kind: Literal["cubin", "ptx"], architecture: str, constants: Mapping[str, int]
) -> bytes:
    compiler = _compiler()
    defines = [f"-DSCALAR_{scalar}", *(f"-D{name}={value}" for name, value in sorted(constants.items()))]
    options = [f"--gpu-architecture={architecture}", *_FLAGS, *defines]
    headers = "".join(path.read_text(encoding="utf-8") for path in sorted(KERNELS.glob("*.cuh")))
    source = op.source.read_text(encoding="utf-8")
    key = hashlib.sha256("\0".join([compiler.version, kind, *options, headers, source]).encode()).hexdigest()[:24]
    cached = cache_folder() / f"{op.entry(scalar)}-{architecture}-{key}.{kind}"
    code = _kept(cached)
    if code is None:
        code = compiler.compile(source, op.source.name, kind, [*options, f"--include-path={KERNELS}"])
        _keep(cached, code)
    return code


def _kept(path: Path) -> bytes | None:
    """The code in a file; None if there is none, if it is damaged, or if another user may have written it."""
    try:
        with path.open("rb") as file:
            found, content = os.fstat(file.fileno()), file.read()
    except OSError:
        return None
    if os.name == "posix" and (found.st_uid not in (0, os.getuid()) or found.st_mode & 0o022):
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(path: Path, code: bytes) -> None:
    """Writes the file whole or not at all; where it cannot be written, the kernel is compiled again next time."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o644)
        temporary.write_bytes(hashlib.sha256(code).digest() + code)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def cache_folder() -> Path:
    """Where compiled kernels are kept: SKIPVIT_CACHE, or skipvit/ in the user's cache folder.

    Raises:
        CompileError: the user has no folder at all.
    """
    named, caches = os.environ.get("SKIPVIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(named) if named else Path(caches or Path.home() / ".cache") / "skipvit"
    except RuntimeError:  # a number of a user that no one has, as in a container
        raise CompileError("there is no home folder to keep kernels in; name a folder in SKIPVIT_CACHE") from None
    return base / "kernels"


@functools.cache
def _compiler() -> Compiler:
    try:
        return _Nvrtc()
    except (ImportError, RuntimeError):  # not installed, or its library is not found
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise CompileError("kernels need NVRTC or nvcc; run: pip install 'skipvit[cuda]'") from None
        return _Nvcc(nvcc)


class _Nvrtc:
    def __init__(self) -> None:
        from cuda.bindings import nvrtc

        self._nvrtc = nvrtc
        status, major, minor = nvrtc.nvrtcVersion()  # loads the library
        self._check(status)
        self.version = f"nvrtc {major}.{minor}"

    def compile(self, source: str, name: str, kind: Literal["cubin", "ptx"], options: list[str]) -> bytes:
        nvrtc = self._nvrtc
        status, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])
        self._check(status)
        try:
            (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
            if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
                nvrtc.nvrtcGetProgramLog(program, log)
                raise CompileError(f"{name} does not compile with {self.version}:\n{log.decode().rstrip(chr(0))}")
            size, get = (
                (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
                if kind == "cubin"
                else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
            )
            code = b" " * size(program)[1]
            self._check(get(program, code)[0])
            return code
        finally:
            nvrtc.nvrtcDestroyProgram(program)

    def _check(self, status: object) -> None:
        if status != self._nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"NVRTC failed: {status}")


class _Nvcc:
    def __init__(self, program: str) -> None:
        self._program = program
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        self.version = told.stdout.strip().splitlines()[-1]

    def compile(self, source: str, name: str, kind: Literal["cubin", "ptx"], options: list[str]) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            file, made = Path(folder) / name, Path(folder) / f"made.{kind}"
            file.write_text(source, encoding="utf-8")
            command = [self._program, f"--{kind}", *options, "-o", str(made), str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompileError(f"{name} does not compile with {self._program}:\n{done.stderr}")
            return made.read_bytes()
