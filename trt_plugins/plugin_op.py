"""What TensorRT, a GPU and a test need to know of one op: one record, from which all its plugins are made.

Shapes are tuples of ints, or of a TensorRT builder's symbols while an engine is built for many sizes. The functions of
a record therefore use ``+``, ``-``, ``*``, ``//`` and `cdiv` on dims, and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

NAMESPACE, VERSION = "skipvit", "1"
KERNELS = Path(__file__).parent / "kernels"

Scalar = Literal["f32", "f16", "bf16"]
SCALARS: tuple[Scalar, ...] = ("f32", "f16", "bf16")
SCALAR_OF_TYPE: dict[str, Scalar] = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16"}  # TensorRT's names
Dim = Any  # int, or a symbol with the arithmetic of one
Shapes = Sequence[tuple[Dim, ...]]  # of the inputs, in order
Attributes = Mapping[str, int]


@dataclass(frozen=True)
class Launch:
    """A kernel's grid and block, x first, and the int32 numbers it takes between its inputs and its outputs."""

    grid: tuple[Dim, Dim, Dim]
    block: tuple[int, int, int]
    numbers: tuple[Dim, ...]


@dataclass(frozen=True)
class PluginOp:
    """One op: floating tensors of one dtype in, one tensor of that dtype out, one kernel launch, no workspace.

    Attributes:
        name: of the ONNX node, and of the plugin.
        kernel: name of the kernel less its scalar, and of its file less ``.cu``.
        inputs, attributes: names in order; attributes are whole numbers.
        ranks: dimensions that each input may have.
        output_shape, launch: functions of the inputs' shapes and the attributes.
        constants: macros that the kernel is compiled with, of dims that an engine knows when it is built.
        folder: where the kernel's file lies, for an op that is kept outside this package.
    """

    name: str
    kernel: str
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    output_shape: Callable[[Shapes, Attributes], tuple[Dim, ...]]
    launch: Callable[[Shapes, Attributes], Launch]
    constants: Callable[[Shapes, Attributes], dict[str, int]] = field(default=lambda shapes, attributes: {})
    folder: Path = KERNELS

    @property
    def source(self) -> Path:
        """The kernel's file."""
        return self.folder / f"{self.kernel}.cu"

    def entry(self, scalar: Scalar) -> str:
        """Name of the compiled kernel."""
        return f"{self.kernel}_{scalar}"

    def parameters(self, launch: Launch) -> list[str]:
        """The kernel's parameters in order: ``pointer`` for tensors, ``int32`` for numbers."""
        return ["pointer"] * len(self.inputs) + ["int32"] * len(launch.numbers) + ["pointer"]

    def check_ranks(self, ranks: Sequence[int]) -> None:
        """Raises ValueError unless there are as many inputs as the op takes, each with dimensions that it may have."""
        if len(ranks) != len(self.inputs):
            raise ValueError(
                f"{self.name} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), not {len(ranks)}"
            )
        for name, rank, allowed in zip(self.inputs, ranks, self.ranks, strict=True):
            if rank not in allowed:
                raise ValueError(
                    f"{self.name}'s {name} must have {' or '.join(map(str, allowed))} dimensions, not {rank}"
                )

    def scalar_of(self, types: Sequence[str]) -> Scalar:
        """The scalar of inputs whose types TensorRT calls so; raises ValueError unless all are one that it may be."""
        if types[0] not in SCALAR_OF_TYPE or set(types) != {types[0]}:
            raise ValueError(f"{self.name} takes inputs of one type, FLOAT, HALF or BF16; it got {', '.join(types)}")
        return SCALAR_OF_TYPE[types[0]]


def check_equal(what: str, *dims: Dim) -> None:
    """Raises ValueError unless those of ``dims`` that are known already are one number; a kernel relies on it."""
    if len({dim for dim in dims if isinstance(dim, int)}) > 1:
        raise ValueError(f"{what} must agree; they are {', '.join(map(str, dims))}")


def check_heads(name: str, channels: Dim, heads: Dim) -> None:
    """Raises ValueError unless there are heads, and they divide the channels, as far as both are known."""
    if isinstance(heads, int) and (heads < 1 or (isinstance(channels, int) and channels % heads)):
        raise ValueError(f"{name} got {channels} channels for {heads} heads; the heads must divide them")


def cdiv(dividend: Dim, divisor: Dim) -> Dim:
    """The quotient rounded up, of ints and of symbols."""
    return (dividend + (divisor - 1)) // divisor
