"""What passes between the program that wants an engine and the process that builds it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from skipvit.manifest import Flavor

TITLES: dict[Flavor, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
Kind = Literal["asked", "parse", "build", "cancelled"]


@dataclasses.dataclass(frozen=True)
class BuildJob:
    """What to build; None is TensorRT's own choice.

    Attributes:
        sha256: of the ONNX file, which was checked before.
        plan: the file to write.
        timing_cache: file to read and write; passed over where TensorRT keeps none, unless ``timing_cache_asked``.
        workspace: bytes.
    """

    onnx: str
    sha256: str
    plan: str
    flavor: Flavor
    profiles: Mapping[str, Sequence[Sequence[int]]]
    plugins: bool = True
    plugin_code: Literal["cubin", "ptx"] = "cubin"
    timing_cache: str | None = None
    timing_cache_asked: bool = False
    level: int | None = None
    workspace: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    strip: bool = False
    verbose: bool = False


@dataclasses.dataclass(frozen=True)
class Built:
    """What came of it: the number of layers by type, and the names of the nodes that became plugins."""

    layers: dict[str, int]
    plugins: list[str]


class Refused(Exception):
    """TensorRT will not build this: what is ``asked`` for is not to be had, or it fell over the graph, at an ``op``."""

    def __init__(self, kind: Kind, text: str, op: str = "") -> None:
        super().__init__(text)
        self.kind, self.op = kind, op
