"""Writes the parts of the C++ plugin library (cpp/) that follow from the records, so that nothing is said twice.

    python -m trt_plugins.cpp_sources FOLDER

A record's functions are run on symbols whose arithmetic writes C++: shapes and launches become ``geometry.h``. Each
kernel becomes a small ``.cu`` file per scalar, and ``kernel_table.h`` finds it. Prints the names of the ``.cu`` files,
separated by ``;``.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_plugins.operators import ALL
from trt_plugins.plugin_op import SCALARS, PluginOp, Scalar
from trt_plugins.symbols import Operation, Symbol, expression_of, known

# Dims that the graph must fix: the library has a variant for each of these. None is a dim of any size.
FIXED: dict[str, list[tuple[tuple[int | None, ...], ...]]] = {
    "TokenDwConvGelu": [((None,) * 4, (None, 1, size, size), (None,)) for size in (3, 5, 7)],
    "EcaGate": [((None,) * 3, (1, 1, taps)) for taps in (3, 5, 7, 9)],
}
_SIGNS: dict[Operation, str] = {"SUM": "+", "SUB": "-", "PROD": "*"}


@dataclass(frozen=True)
class Variant:
    """One op for inputs of certain ranks and fixed dims: the C++ of its shapes and launch, and its kernel's macros."""

    op: PluginOp
    condition: str
    output: list[str]
    grid: list[str]
    block: list[str]
    numbers: list[str]
    constants: dict[str, int]

    @property
    def suffix(self) -> str:
        """What tells its kernels from those of the op's other variants."""
        return "".join(f"_{value}" for value in self.constants.values())

    def kernel(self, scalar: Scalar) -> str:
        return f"{self.op.kernel}{self.suffix}_{scalar}"


def variants_of(op: PluginOp) -> list[Variant]:
    """All variants: one for each combination of ranks, or of fixed dims."""
    free: list[tuple[tuple[int | None, ...], ...]] = [
        tuple((None,) * rank for rank in ranks) for ranks in itertools.product(*op.ranks)
    ]
    return [_variant(op, shapes) for shapes in FIXED.get(op.name, free)]


def _variant(op: PluginOp, sizes: tuple[tuple[int | None, ...], ...]) -> Variant:
    shapes = [
        tuple(Symbol(f"in[{i}].dims[{axis}]", _combine) if size is None else size for axis, size in enumerate(shape))
        for i, shape in enumerate(sizes)
    ]
    attributes: Any = {name: Symbol(f"attributes[{i}]", _combine) for i, name in enumerate(op.attributes)}
    conditions = [f"in[{i}].rank == {len(shape)}" for i, shape in enumerate(sizes)]
    for i, shape in enumerate(sizes):
        conditions += [f"is(in[{i}].dims[{axis}], {size})" for axis, size in enumerate(shape) if size is not None]
    launch = op.launch(shapes, attributes)
    return Variant(
        op,
        " && ".join(conditions),
        _written(op.output_shape(shapes, attributes)),
        _written(launch.grid),
        _written(launch.block),
        _written(launch.numbers),
        known(op.constants(shapes, attributes), op.name),
    )


def _combine(operation: Operation, left: Any, right: Any) -> str:
    return f"floor_div({left}, {right})" if operation == "FLOOR_DIV" else f"({left} {_SIGNS[operation]} {right})"


def _written(dims: Sequence[Any]) -> list[str]:
    return [str(expression_of(dim)) for dim in dims]


def geometry(ops: Sequence[PluginOp]) -> str:
    """The text of ``geometry.h``; cpp/dims.h is what it is written in."""
    return "\n".join(_geometry_lines(ops)) + "\n"


def _geometry_lines(ops: Sequence[PluginOp]) -> Iterator[str]:
    yield "// Written by trt_plugins/cpp_sources.py from the records in trt_plugins/operators."
    yield "#pragma once\n"
    yield '#include "dims.h"\n'
    yield f"constexpr int OP_COUNT = {len(ops)};"
    yield "constexpr Op OPS[OP_COUNT] = {"
    for op in ops:
        names = ", ".join(f'"{name}"' for name in op.attributes)
        yield f'    {{"{op.name}", {len(op.inputs)}, {len(op.attributes)}, {{{names}}}}},'
    yield "};\n"
    yield "template <class D>"
    yield "bool output_shape(int op, const Shape<D>* in, const int64_t* attributes, Shape<D>& out) {"
    yield "  (void)attributes;"
    for op_index, op in enumerate(ops):
        for variant in variants_of(op):
            dims = ", ".join(f"D({dim})" for dim in variant.output)
            yield f"  if (op == {op_index} && {variant.condition}) return set_shape(out, {{{dims}}});"
    yield "  return false;\n}\n"
    yield "inline bool launch_of(int op, const Shape<int64_t>* in, const int64_t* attributes, Launch& launch) {"
    yield "  (void)attributes;"
    for op_index, op in enumerate(ops):
        for index, variant in enumerate(variants_of(op)):
            lists = ", ".join(f"{{{', '.join(part)}}}" for part in (variant.grid, variant.block, variant.numbers))
            yield f"  if (op == {op_index} && {variant.condition})"
            yield f"    return set_launch(launch, {index}, {lists});"
    yield "  return false;\n}"


def kernel_table(ops: Sequence[PluginOp]) -> str:
    """The text of ``kernel_table.h``: the address of each kernel by op, variant and scalar."""
    declarations, rows = [], []
    for op in ops:
        variants = variants_of(op)
        for variant in variants:
            declarations += [f'extern "C" const void* skipvit_{variant.kernel(scalar)}();' for scalar in SCALARS]
        cells = [", ".join(f"skipvit_{variant.kernel(scalar)}" for scalar in SCALARS) for variant in variants]
        rows.append(f"    {{{', '.join(f'{{{cell}}}' for cell in cells)}}},")
    most = max(len(variants_of(op)) for op in ops)
    head = ["// Written by trt_plugins/cpp_sources.py from the records in trt_plugins/operators.", "#pragma once", ""]
    table = [f"typedef const void* (*Kernel)();\nconstexpr Kernel KERNELS[][{most}][{len(SCALARS)}] = {{", *rows, "};"]
    return "\n".join([*head, *dict.fromkeys(declarations), "", *table]) + "\n"


def kernel_unit(variant: Variant, scalar: Scalar) -> str:
    """A ``.cu`` file with one kernel, under a name that no other variant has, and a function that tells its address."""
    name = variant.op.kernel
    defines = [f"#define SCALAR_{scalar}", *(f"#define {macro} {value}" for macro, value in variant.constants.items())]
    if variant.suffix:
        defines.append(f"#define {name} {name}{variant.suffix}")
    function = f'extern "C" const void* skipvit_{variant.kernel(scalar)}()'
    body = f"{function} {{ return reinterpret_cast<const void*>(&ENTRY({name})); }}"
    return "\n".join([*defines, f'#include "{variant.op.source}"', body]) + "\n"


def write(folder: Path, ops: Sequence[PluginOp] = ALL) -> list[Path]:
    """Writes all files into ``folder``, those that are as they should be excepted, and returns the ``.cu`` files."""
    units = {
        f"{variant.kernel(scalar)}.cu": kernel_unit(variant, scalar)
        for op in ops
        for variant in variants_of(op)
        for scalar in SCALARS
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"geometry.h": geometry(ops), "kernel_table.h": kernel_table(ops), **units}.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else its objects would be compiled anew
            path.write_text(text, encoding="utf-8")
    return [folder / name for name in units]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the generated sources of the C++ plugin library.")
    parser.add_argument("folder", type=Path, help="where to, made if it is not there")
    print(";".join(map(str, write(parser.parse_args().folder))))


if __name__ == "__main__":
    main()
