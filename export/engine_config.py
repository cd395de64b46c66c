"""From a job to TensorRT's builder configuration; what this TensorRT cannot do is refused, not ignored.

What a TensorRT can do is tried, not concluded from its version.
"""

import warnings
from pathlib import Path
from typing import Any

from export.engine_job import TITLES, BuildJob, Refused
from skipvit.publishing import write_atomically
from trt_plugins.flavors import Tensorrt

_MAX_CACHE_BYTES = 1 << 28
_FLAGS = {"version_compatible": "VERSION_COMPATIBLE", "refit": "REFIT", "strip": "STRIP_PLAN"}


def configured(job: BuildJob, tensorrt: Tensorrt, builder: Any) -> tuple[Any, bool]:
    """The configuration that a job asks for, and whether it has a timing cache to save after the build.

    Raises:
        Refused: this TensorRT has no such thing.
    """
    trt = tensorrt.module
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shapes in job.profiles.items():
        profile.set_shape(name, *(tuple(shape) for shape in shapes))
    config.add_optimization_profile(profile)
    if not job.tf32 and hasattr(trt.BuilderFlag, "TF32"):  # on by default: float32 with ten bits of mantissa
        config.clear_flag(trt.BuilderFlag.TF32)
    for option, flag in _FLAGS.items():
        if getattr(job, option):
            if not hasattr(trt.BuilderFlag, flag):
                raise _unknown(tensorrt, option)
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if job.hardware_compatible:
        _set_hardware_compatible(tensorrt, config)
    if job.level is not None:
        config.builder_optimization_level = job.level
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    return config, _load_timing_cache(job, tensorrt, config)


def _unknown(tensorrt: Tensorrt, option: str) -> Refused:
    flag = option.replace("_", "-")
    return Refused("asked", f"{TITLES[tensorrt.flavor]} {tensorrt.version} has no --{flag}; leave it out")


def _set_hardware_compatible(tensorrt: Tensorrt, config: Any) -> None:
    levels = getattr(tensorrt.module, "HardwareCompatibilityLevel", None)
    if levels is not None:
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    if levels is None or config.hardware_compatibility_level != levels.AMPERE_PLUS:
        raise _unknown(tensorrt, "hardware_compatible")


def _load_timing_cache(job: BuildJob, tensorrt: Tensorrt, config: Any) -> bool:
    """Sets the cache of an earlier build, or an empty one where there is none or it is another TensorRT's."""
    if job.timing_cache is None:
        return False
    path = Path(job.timing_cache)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DeprecationWarning)  # TensorRT-RTX has the calls, and says they do nothing
        keeps = hasattr(config, "create_timing_cache") and _set_timing_cache(config, path)
    if keeps and not said:
        return True
    if job.timing_cache_asked:
        raise _unknown(tensorrt, "timing_cache")
    return False


def _set_timing_cache(config: Any, path: Path) -> bool:
    try:
        known = path.read_bytes() if path.is_file() and path.stat().st_size <= _MAX_CACHE_BYTES else b""
    except OSError as error:
        raise Refused("asked", f"{path} cannot be read: {error.strerror}; give another --timing-cache") from None
    found = config.set_timing_cache(config.create_timing_cache(known), False)
    return bool(found or config.set_timing_cache(config.create_timing_cache(b""), False))


def save_timing_cache(job: BuildJob, config: Any) -> None:
    """Writes what the build measured to the file that the job names.

    Raises:
        Refused: the file cannot be written.
    """
    assert job.timing_cache is not None, "asked where nothing was loaded"
    path = Path(job.timing_cache)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bytes(memoryview(config.get_timing_cache().serialize())))
    except OSError as error:
        raise Refused("asked", f"{path} cannot be written: {error.strerror}; give another --timing-cache") from None
