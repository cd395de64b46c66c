"""Plan files: an engine as it lies on disk, deserialized, or refused with a sentence that says what to do."""

import logging
import re
import shlex
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_plugins.flavors import Tensorrt
from trt_plugins.registration import RegistrationError, register

logger = logging.getLogger(__name__)

_KEPT_LINES = 20
# What TensorRT writes to its log, and IRuntime's diagnostics where it has them, to one cause each; the first that fits.
# A machine without a driver is also told that a version is wrong, so that cause comes first.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        "no gpu",
        "",
        r"cudaError (?:35|100|803|804)\b|CUDA initialization failure|driver version is insufficient|"
        r"no CUDA-capable device",
    ),
    ("driver", "OLD_CUDA_DRIVER", r"driver is too old|newer driver"),
    ("memory", "INSUFFICIENT_GPU_MEMORY", r"out of memory|cudaError 2\b|OutOfMemory"),
    ("gpu", "UNSUPPORTED_CC", r"incompatible device|compute capability|target (?:GPU|device)"),
    ("plugin", "", r"[Cc]annot find plugin|[Pp]lugin not found|getPluginCreator|could not find plugin"),
    (
        "version",
        "VERSION_MISMATCH",
        r"library version|[Vv]ersion tag|not compatible with this version|weightful version",
    ),
    ("damaged", "MALFORMED_ENGINE", r"magicTag|serialization version|Serialization assertion|header does not conform"),
)


_IN_AN_ENTRY = re.compile(r"model\.(\w+)\.(\w+)\.plan")  # precision, and what it is for


class EngineError(Exception):
    """An engine cannot be opened or run; the message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """A deserialized engine, and what must live as long as it. ``words`` gives TensorRT's latest complaints."""

    engine: Any
    runtime: Any
    log: Any

    def words(self) -> str:
        """The latest complaint, or what stands for none."""
        return str(self.log.kept[-1]) if self.log.kept else "TensorRT gave no reason"


def read_plan(path: Path, tensorrt: Tensorrt) -> Plan:
    """Deserializes a plan file, which the caller has verified, on the current GPU.

    Raises:
        EngineError: it is of another version, for another GPU, damaged, lacks a plugin, or there is no GPU.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}; build it with {rebuild_command(path)}") from None
    try:
        register(tensorrt)
    except RegistrationError as error:
        raise EngineError(f"{path} may need our plugins, and {error}") from error
    log = _log(tensorrt.module)
    try:
        runtime = tensorrt.module.Runtime(log)
    except (TypeError, RuntimeError):  # a null pointer to the bindings: full TensorRT, on a machine without a GPU
        raise EngineError(_explained(path, tensorrt, log.kept, frozenset())) from None
    diagnostics = _check(path, tensorrt, runtime, log, data)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(_explained(path, tensorrt, log.kept, diagnostics))
    return Plan(engine, runtime, log)


def _check(path: Path, tensorrt: Tensorrt, runtime: Any, log: Any, data: bytes) -> frozenset[str]:
    """Asks the runtime what it thinks of a plan, where it can be asked, and returns names of what speaks against it."""
    if not hasattr(runtime, "get_engine_validity"):
        return frozenset()
    validity, mask = runtime.get_engine_validity(data)
    against = frozenset(
        name for name, flag in tensorrt.module.EngineInvalidityDiagnostics.__members__.items() if int(mask) & int(flag)
    )
    if validity == tensorrt.module.EngineValidity.INVALID:
        raise EngineError(_explained(path, tensorrt, log.kept, against))
    if validity == tensorrt.module.EngineValidity.SUBOPTIMAL:
        logger.warning("%s runs, but not as fast as it could here; rebuild it: %s", path, rebuild_command(path))
    return against


def _explained(path: Path, tensorrt: Tensorrt, lines: "deque[str]", diagnostics: frozenset[str]) -> str:
    text = "\n".join(lines)
    cause = next((c for c, flag, words in _CAUSES if flag in diagnostics or re.search(words, text)), "")
    here = f"{_NAMES[tensorrt.flavor]} {tensorrt.version}"
    rebuild = rebuild_command(path)
    said = f" ({_line(lines, cause)})" if lines else ""
    sentences = {
        "no gpu": f"{path} cannot be opened: there is no NVIDIA GPU or no driver here{said}; engines run on a GPU "
        "only: see what nvidia-smi says, or run the ONNX file",
        "driver": f"{path} needs a newer NVIDIA driver{said}; update the driver, or rebuild it here: {rebuild}",
        "memory": f"{path} does not fit into the GPU's free memory{said}; stop what else uses it, or rebuild it with a "
        f"smaller batch: {rebuild} --batch 1,4,8",
        "gpu": f"{path} was built for another GPU{said}; rebuild it here: {rebuild}",
        "plugin": f"{path} needs a plugin that is not registered{said}; update skipvit to the version that built it, "
        f"or rebuild it: {rebuild}",
        "version": f"{path} was built by another version; here is {here}{said}; rebuild it: {rebuild}",
        "damaged": f"{path} is damaged, or no engine of {here}{said}; rebuild it: {rebuild}",
    }
    return sentences.get(cause, f"{path} cannot be opened by {here}{said}; rebuild it: {rebuild}")


_NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def _line(lines: "deque[str]", cause: str) -> str:
    """The line that shows the cause, else the last one."""
    pattern = next((words for name, _, words in _CAUSES if name == cause), "")
    fitting = [line for line in lines if pattern and re.search(pattern, line)]
    return " ".join((fitting or lines)[-1].split())[:240]


def rebuild_command(path: Path) -> str:
    """The command that builds an engine anew; the name of one in a repository's entry says which it is."""
    if not path.parent.name.isdigit():
        return f"skipvit-to-trt --force MODEL.onnx --out {shlex.quote(str(path))}"
    found = _IN_AN_ENTRY.fullmatch(path.name)
    which = f" --flavor {'rtx' if found[2] == 'rtx' else 'tensorrt'} --precision {found[1]}" if found else ""
    return f"skipvit-to-trt --force {shlex.quote(str(path.parent))}{which}"


_LOGS: dict[int, Any] = {}


def _log(module: Any) -> Any:
    """TensorRT's log of this process, which forwards warnings and keeps the latest complaints.

    There is one for each module: TensorRT keeps the first that it is given and complains about others.
    """
    if id(module) not in _LOGS:
        _LOGS[id(module)] = _new_log(module)
    log = _LOGS[id(module)]
    log.kept.clear()
    return log


def _new_log(module: Any) -> Any:
    severity = module.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Log(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.kept: deque[str] = deque(maxlen=_KEPT_LINES)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.ERROR)
            logger.log(level, "TensorRT: %s", message)
            # Why a plan is refused is in part told as information, but what was loaded and how big it is, is no reason.
            if level > logging.DEBUG or "conform" in message:
                self.kept.append(message)

    return Log()
