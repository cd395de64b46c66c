"""Which engine runs a model: the one that was asked for, or the fastest that is here and verified, and why.

TensorRT is imported only where a model has an engine of it that is worth trying, and CUDA only where there is such an
engine or ONNX Runtime's build for GPUs.
"""

from typing import Any, Protocol

from serve.engines.capacity import Capacity
from serve.engines.engine import Engine, EngineInfo, EngineKind, EngineUnavailable, OnnxCpuEngine
from serve.engines.onnx_cuda_engine import OnnxCudaEngine, has_cuda_build
from serve.settings import Settings
from skipvit.artifacts import Entry
from skipvit.manifest import Engine as EngineRecord
from skipvit.manifest import Flavor
from trt_plugins.flavors import Tensorrt, TensorrtMissing, open_tensorrt
from trt_plugins.gpus import find_gpu
from trt_plugins.sources import sources_hash

_FLAGS: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}  # of skipvit-to-trt's --flavor
# Fastest first. Each was verified within its own tolerance, so that a faster one is no worse.
_PRECISIONS = ("fp8", "int8", "fp16", "bf16", "fp32")


class OpenEngine(Engine, Protocol):
    """An engine that also knows how many classes its graph gives, 0 if none."""

    classes: int


def open_engine(entry: Entry, settings: Settings) -> tuple[OpenEngine, EngineInfo]:
    """Opens the engine that the settings ask for.

    Raises:
        EngineUnavailable: it cannot be had here; the message says why and what to do.
        ArtifactError: something is wrong with its file.
    """
    choice = settings.engine
    if choice == "auto":
        return _fastest(entry, settings)
    why = f"--engine {choice} asks for it"
    if choice == "onnx-cpu":
        return OnnxCpuEngine.from_entry(entry), on_cpu(entry, why)
    if choice == "onnx-cuda":
        return OnnxCudaEngine.from_entry(entry), _info(entry, choice, _gpu_name(), why)
    return _asked(entry, settings, choice, why)


def on_cpu(entry: Entry, why: str) -> EngineInfo:
    """ONNX Runtime on the CPU, in words."""
    return _info(entry, "onnx-cpu", "CPU", why)


def _asked(entry: Entry, settings: Settings, flavor: Flavor, why: str) -> tuple[OpenEngine, EngineInfo]:
    """The first engine of a flavor that is verified and opens."""
    built = [record for record in _ranked(entry) if record.flavor == flavor]
    build = f"skipvit-to-trt --flavor {_FLAGS[flavor]} {entry.folder}"
    if not built:
        raise EngineUnavailable(
            f"{entry.folder} has no engine of {flavor}; build one: {build} (or give another --engine)"
        )
    reasons = []
    for record in built:
        if record.status != "verified":
            reasons.append(
                f"{entry.folder / record.file} is {record.status}; verify it on this machine: "
                f"{record.build_command(entry.folder)}"
            )
            continue
        try:
            return _opened(entry, record, settings, _tensorrt(flavor), why)
        except EngineUnavailable as error:
            reasons.append(str(error))
    raise EngineUnavailable("; ".join(reasons))


def _fastest(entry: Entry, settings: Settings) -> tuple[OpenEngine, EngineInfo]:
    """The first that opens of the verified engines, CUDA and the CPU; why not the others becomes part of its why."""
    against: list[str] = []
    for record in _ranked(entry):
        mismatch = _mismatch(entry, record)
        if mismatch:
            against.append(f"{record.file} {mismatch}")
            continue
        try:
            why = "; ".join(["it is the fastest that is verified here", *against])
            return _opened(entry, record, settings, _tensorrt(record.flavor), why)
        except EngineUnavailable as error:
            against.append(str(error))
    if has_cuda_build() and find_gpu() is not None:
        try:
            why = "; ".join(["there is a GPU and no verified engine for it", *against])
            return OnnxCudaEngine.from_entry(entry), _info(entry, "onnx-cuda", _gpu_name(), why)
        except EngineUnavailable as error:
            against.append(str(error))
    elif has_cuda_build():
        against.append("no NVIDIA GPU is here")
    else:
        against.append("ONNX Runtime is the one for CPUs")
    return OnnxCpuEngine.from_entry(entry), on_cpu(entry, "; ".join(against))


def _mismatch(entry: Entry, record: EngineRecord) -> str:
    """What of a manifest's engine does not fit this machine, or nothing."""
    if record.status != "verified":
        return f"is {record.status}"
    gpu = find_gpu()
    if gpu is None:
        return "needs a GPU, and cuda-core finds none"
    if record.gpu != gpu.name:
        return f"was verified on {record.gpu}, here is {gpu.name}"
    try:
        version = open_tensorrt(record.flavor).version
    except TensorrtMissing as error:
        return f"cannot run: {error}"
    if record.flavor_version != version:
        return f"was verified with {record.flavor} {record.flavor_version}, here is {version}"
    # An engine of TensorRT-RTX calls the kernels that are installed; one of full TensorRT has its own in it.
    if record.flavor == "tensorrt-rtx" and record.options.get("plugin_sources") not in (None, sources_hash()):
        return f"was verified with other kernels than skipvit has here; run: {record.build_command(entry.folder)}"
    return ""


def _opened(
    entry: Entry, record: EngineRecord, settings: Settings, tensorrt: Tensorrt, why: str
) -> tuple[OpenEngine, EngineInfo]:
    from serve.engines.tensorrt_engine import TensorrtEngine
    from trt_plugins.session import EngineError

    largest = Capacity.of(settings, entry.manifest.name, entry.manifest.task, on_gpu=True).max_batch
    try:
        engine = TensorrtEngine.from_entry(entry, record, tensorrt, settings.engine_memory, largest)
    except EngineError as error:
        raise EngineUnavailable(str(error)) from error
    info = EngineInfo(
        kind=record.flavor, file=record.file, precision=record.precision, device=engine.device, why=why
    )  # fmt: skip
    return engine, info


def _tensorrt(flavor: Flavor) -> Tensorrt:
    try:
        return open_tensorrt(flavor)
    except TensorrtMissing as error:
        raise EngineUnavailable(str(error)) from error


def _ranked(entry: Entry) -> list[EngineRecord]:
    """A manifest's engines, fastest first: full TensorRT, then the smallest numbers."""

    def rank(record: EngineRecord) -> Any:
        return record.flavor != "tensorrt", _PRECISIONS.index(record.precision)

    return sorted(entry.manifest.engines, key=rank)


def _info(entry: Entry, kind: EngineKind, device: str, why: str) -> EngineInfo:
    precision, file = next(iter(entry.manifest.models.items()))
    return EngineInfo(kind=kind, file=file, precision=precision, device=device, why=why)


def _gpu_name() -> str:
    gpu = find_gpu()
    return gpu.name if gpu is not None else "GPU"
