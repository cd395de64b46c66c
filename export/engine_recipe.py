"""All that makes one engine differ from another, so that what is there already is not built again."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from export.engine_arguments import Profile
from export.engine_graph import GraphError
from export.engine_job import TITLES, BuildJob, Built
from export.engine_target import Target
from skipvit.manifest import Engine, Parity
from trt_plugins.cubins import cache_folder
from trt_plugins.flavors import Tensorrt
from trt_plugins.gpus import Gpu
from trt_plugins.sources import sources_hash

# Flags of a job that change the engine, and belong into its record where they are not the default.
_OPTIONS = ("level", "workspace", "tf32", "version_compatible", "hardware_compatible", "refit", "strip")
_SMALLEST_AMPERE = (8, 0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An engine to be built: the job for TensorRT, and what the record will say of it.

    Attributes:
        runs_on: compute capability that the engine is for, such as "9.0" or "7.5+".
    """

    job: BuildJob
    target: Target
    tensorrt: Tensorrt
    gpu: Gpu | None
    file: str
    runs_on: str

    def options(self) -> dict[str, str | int | bool]:
        """The record's ``options``: with equal ones, and equal shapes, an engine need not be built again."""
        asked = {name: getattr(self.job, name) for name in _OPTIONS if getattr(self.job, name) not in (None, False)}
        hashed = {"plugin_sources": sources_hash()} if self.job.plugins and self.target.graph.ours else {}
        code = {"plugin_code": self.job.plugin_code} if hashed and self.tensorrt.flavor == "tensorrt" else {}
        return {"onnx_sha256": self.job.sha256, "plugins": self.job.plugins, **hashed, **code, **asked}

    def record(self, built: Built, parity: Parity | None) -> Engine:
        """What the manifest says of the engine."""
        ours = self.target.graph.ours
        plugins = Counter([ours[name] for name in built.plugins if name in ours])
        bodies = Counter(list(ours.values())) - plugins
        return Engine(
            file=self.file,
            made_from=self.target.graph.path.name,
            precision=self.target.precision,
            flavor=self.tensorrt.flavor,
            flavor_version=self.tensorrt.version,
            gpu=self.gpu.name if self.gpu else "none",
            compute_capability=self.runs_on,
            shapes=_shapes(self.job),
            plugins=dict(sorted(plugins.items())),
            bodies=dict(sorted(bodies.items())),
            options=self.options(),
            status="verified" if parity else "built, not run",
            parity=parity,
        )

    def vouched_for(self, known: Engine) -> bool:
        """Whether there is nothing left to compare: it was, on the GPU that is here, or there is none here."""
        return known.status == "verified" and (self.gpu is None or known.gpu == self.gpu.name)

    def verified(self, known: Engine, parity: Parity) -> Engine:
        """The record of an engine that was built before and compared here."""
        gpu = self.gpu.name if self.gpu else known.gpu
        return Engine.model_validate({**known.model_dump(), "gpu": gpu, "status": "verified", "parity": parity})

    def already_built(self) -> Engine | None:
        """The record of an engine that lies there and is what this recipe makes."""
        known = self.target.known(self.file)
        if known is None:
            return None
        here = (self.target.graph.path.name, self.tensorrt.flavor, self.tensorrt.version, self.runs_on)
        there = (known.made_from, known.flavor, known.flavor_version, known.compute_capability)
        tied = self.gpu is not None and not self.runs_on.endswith("+")  # timed on one GPU, and as fast on it only
        same_gpu = not tied or (self.gpu is not None and known.gpu == self.gpu.name)
        same = here == there and same_gpu and known.shapes == _shapes(self.job) and known.options == self.options()
        return known if same else None


def recipe(
    target: Target, tensorrt: Tensorrt, gpu: Gpu | None, profiles: Mapping[str, Profile], flags: Mapping[str, object]
) -> Recipe:
    """The recipe for what the command line asks.

    Args:
        flags: fields of `BuildJob`.

    Raises:
        GraphError: full TensorRT without a GPU, or a flag that means nothing to TensorRT-RTX.
    """
    if flags.get("plugin_code") and tensorrt.flavor == "tensorrt-rtx":
        raise GraphError(
            f"{TITLES[tensorrt.flavor]} has no --plugin-code: its engines call kernels by name; leave it out"
        )
    # A kernel's machine code runs on GPUs of one major version only.
    code = flags.get("plugin_code") or ("ptx" if flags.get("hardware_compatible") else "cubin")
    suffix, runs_on = _runs_on(tensorrt, gpu, bool(flags.get("hardware_compatible")))
    asked = flags.get("timing_cache")
    job = BuildJob(
        onnx=str(target.graph.path.absolute()),
        sha256=target.graph.sha256,
        plan="",
        flavor=tensorrt.flavor,
        profiles=profiles,
        **{
            **flags,
            "plugin_code": code,
            "timing_cache": str(asked or _timing_cache(tensorrt, suffix)),
            "timing_cache_asked": bool(asked),
        },  # type: ignore[arg-type]  # mypy gives every field the dict's one type
    )
    return Recipe(job, target, tensorrt, gpu, target.file_name(suffix), runs_on)


def _runs_on(tensorrt: Tensorrt, gpu: Gpu | None, hardware_compatible: bool) -> tuple[str, str]:
    """What the engine's file is called after, and the compute capability that its record gives."""
    if tensorrt.flavor == "tensorrt-rtx":
        return "rtx", "7.5+"
    if gpu is None:
        raise GraphError(
            f"{TITLES[tensorrt.flavor]} builds for the GPU of its machine, and here is none; "
            "--flavor rtx builds without one"
        )
    major, minor = gpu.capability
    if hardware_compatible:
        return "sm80plus", ".".join(map(str, _SMALLEST_AMPERE)) + "+"
    return f"sm{major}{minor}", f"{major}.{minor}"


def _timing_cache(tensorrt: Tensorrt, suffix: str) -> Path:
    return cache_folder().parent / "timing" / f"{tensorrt.flavor}-{tensorrt.version}-{suffix}.cache"


def _shapes(job: BuildJob) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    return {
        name: (tuple(smallest), tuple(usual), tuple(largest))
        for name, (smallest, usual, largest) in job.profiles.items()
    }
