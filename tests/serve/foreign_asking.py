"""A repository of models that are not ours, and requests for them as Triton's client makes them."""

from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from onnx import TensorProto
from tritonclient.utils import np_to_triton_dtype

from tests.serve.foreign_models import SIMPLE_CONFIG, add_sub, config_of, graph, identity, write_foreign
from tests.serve.servers import write_model

NAMES = ("INPUT0", "INPUT1")
KINDS = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
FP32 = TensorProto.FLOAT


def write_all(root: Path) -> None:
    """A model for each thing that tests ask of one, and the tiny classifier."""
    write_foreign(root, "simple", add_sub(), SIMPLE_CONFIG)
    write_foreign(root, "simple_string", add_sub(TensorProto.STRING, nodes="add_sub_strings"))
    for datatype, kind in KINDS.items():
        write_foreign(root, f"same-{datatype}", identity(kind))
    write_foreign(root, "whole", identity(FP32, (2, 3)))
    write_foreign(root, "scalar", identity(FP32, ()))
    agreeing = {"INPUT0": (FP32, ("b", "n")), "INPUT1": (FP32, ("b", "n"))}
    write_foreign(
        root, "agreeing", graph("add_sub", agreeing, dict.fromkeys(("OUTPUT0", "OUTPUT1"), (FP32, ("b", "n"))))
    )
    reshaped = config_of(
        4, {"INPUT0": ("FP32", "dims: [ 2, -1 ] reshape { shape: [ -1 ] }")},
        {"OUTPUT0": ("FP32", 'dims: [ -1, 2 ] reshape { shape: [ -1 ] } label_filename: "names.txt"')},
    )  # fmt: skip
    write_foreign(root, "reshaped", identity(FP32), reshaped)
    (root / "reshaped" / "names.txt").write_text("first\u2028line\nsecond\nthird\n", encoding="utf-8")
    nodes = [("Expand", ["INPUT0", "INPUT1"], ["OUTPUT0"], {})]
    write_foreign(
        root, "vast",
        graph(nodes, {"INPUT0": (FP32, (1,)), "INPUT1": (TensorProto.INT64, (1,))}, {"OUTPUT0": (FP32, ("n",))}),
    )  # fmt: skip
    nodes = [("Gather", ["table", "INPUT0"], ["OUTPUT0"], {"axis": 0})]
    table = np.arange(10, dtype=np.float32)
    one = {"INPUT0": (TensorProto.INT64, ("b", 1))}
    write_foreign(
        root, "picky", graph(nodes, one, {"OUTPUT0": (FP32, ("b", 1))}, {"table": table}),
        "max_batch_size: 8 dynamic_batching { }",
    )  # fmt: skip
    write_model(root)


def tensor(name: str, values: Any, *, binary: bool = True) -> Any:
    datatype = np_to_triton_dtype(values.dtype)
    return triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


def pair(first: Any, second: Any, **options: Any) -> Any:
    return [tensor(name, values, **options) for name, values in zip(NAMES, (first, second), strict=True)]


FOUR = np.zeros((1, 16), np.int32)
