"""Flags and TensorRT's configuration, on a stand-in that has, or lacks, what TensorRTs of several versions have."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.engine_config import configured, save_timing_cache
from export.engine_job import BuildJob, Refused
from trt_plugins.flavors import Tensorrt


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return b"timed " + self.content


class Config:
    """An IBuilderConfig that remembers; ``mine`` is the start of timing caches that it takes."""

    def __init__(self, mine: bytes = b"") -> None:
        self.flags, self.profiles, self.limits = {"TF32"}, [], {}  # type: ignore[var-annotated]
        self.builder_optimization_level, self.hardware_compatibility_level = 3, "NONE"
        self._mine = mine

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return cache.content.startswith(self._mine) or not cache.content

    def get_timing_cache(self) -> Cache:
        return self._cache


class Profile(dict[str, Any]):
    def set_shape(self, name: str, smallest: Any, usual: Any, largest: Any) -> None:
        self[name] = (smallest, usual, largest)


def stand_in(*lacks: str) -> Tensorrt:
    flags = {name: name for name in ("TF32", "VERSION_COMPATIBLE", "REFIT", "STRIP_PLAN") if name not in lacks}
    module = SimpleNamespace(
        BuilderFlag=SimpleNamespace(**flags),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS"),
    )
    if "HARDWARE" in lacks:
        del module.HardwareCompatibilityLevel
    return Tensorrt(module, "tensorrt", "11.4")


def job(**flags: Any) -> BuildJob:
    profiles = {"x": ([1, 3], [2, 3], [4, 3])}
    return BuildJob(onnx="x.onnx", sha256="", plan="", flavor="tensorrt", profiles=profiles, **flags)


def made(tensorrt: Tensorrt, config: Config, asked: BuildJob) -> bool:
    builder = SimpleNamespace(create_builder_config=lambda: config, create_optimization_profile=Profile)
    found, timed = configured(asked, tensorrt, builder)
    assert found is config
    return timed


def test_every_flag_arrives() -> None:
    config = Config()
    flags = {"version_compatible": True, "hardware_compatible": True, "refit": True, "strip": True}
    made(stand_in(), config, job(level=5, workspace=1 << 20, tf32=True, **flags))
    assert config.flags == {"TF32", "VERSION_COMPATIBLE", "REFIT", "STRIP_PLAN"}
    assert (config.builder_optimization_level, config.limits) == (5, {"workspace": 1 << 20})
    assert config.hardware_compatibility_level == "AMPERE_PLUS"
    assert config.profiles == [{"x": ((1, 3), (2, 3), (4, 3))}]


def test_without_flags_only_float32_is_made_exact() -> None:
    config = Config()
    assert made(stand_in(), config, job()) is False
    assert (config.flags, config.builder_optimization_level, config.limits) == (set(), 3, {})
    made(stand_in("TF32"), Config(), job())  # a TensorRT without it has nothing to clear


@pytest.mark.parametrize(
    ("lacks", "option"),
    [
        ("VERSION_COMPATIBLE", "version_compatible"),
        ("REFIT", "refit"),
        ("STRIP_PLAN", "strip"),
        ("HARDWARE", "hardware_compatible"),
    ],
)
def test_what_this_tensorrt_lacks_is_refused(lacks: str, option: str) -> None:
    with pytest.raises(Refused, match=f"TensorRT 11.4 has no --{option.replace('_', '-')}; leave it out"):
        made(stand_in(lacks), Config(), job(**{option: True}))


def test_a_level_that_does_not_take_is_refused() -> None:
    class Stubborn(Config):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, "NONE" if name == "hardware_compatibility_level" else value)

    with pytest.raises(Refused, match="has no --hardware-compatible"):
        made(stand_in(), Stubborn(), job(hardware_compatible=True))


@pytest.mark.parametrize(("there", "kept"), [(None, b""), (b"mine, earlier", b"mine, earlier"), (b"another's", b"")])
def test_timings_are_kept_from_build_to_build(there: bytes | None, kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "timing" / "x.cache"
    if there is not None:
        path.parent.mkdir()
        path.write_bytes(there)
    config, asked = Config(mine=b"mine"), job(timing_cache=str(path))
    assert made(stand_in(), config, asked) is True
    save_timing_cache(asked, config)
    assert path.read_bytes() == b"timed " + kept


class Deprecated(Config):
    """As TensorRT-RTX: the calls are there, and do nothing."""

    def create_timing_cache(self, content: bytes) -> Cache:
        warnings.warn("Timing cache operations are no-ops", DeprecationWarning, stacklevel=2)
        return super().create_timing_cache(content)


class Without(Config):
    create_timing_cache = property()  # type: ignore[assignment]  # hasattr says no


@pytest.mark.parametrize("kind", [Deprecated, Without])
def test_a_tensorrt_without_timings_is_asked_for_none(kind: type[Config], tmp_path: Path) -> None:
    path = str(tmp_path / "x.cache")
    assert made(stand_in(), kind(), job(timing_cache=path)) is False
    with pytest.raises(Refused, match="has no --timing-cache; leave it out"):
        made(stand_in(), kind(), job(timing_cache=path, timing_cache_asked=True))


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = job(timing_cache=str(tmp_path / "file" / "x.cache"))
    config = Config()
    made(stand_in(), config, asked)
    with pytest.raises(Refused, match=r"cannot be written: .*; give another --timing-cache"):
        save_timing_cache(asked, config)
