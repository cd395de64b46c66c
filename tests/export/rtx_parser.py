"""Parses an ONNX file with TensorRT-RTX, builds an engine plan from it, and prints what came of it as JSON.

A program of its own, because some failures of the parser end the process. Neither step needs a GPU.

    python rtx_parser.py model.onnx [--multiple N] [--plugins]

Dynamic axes but the batch run from N to 16 times as much. With --plugins our ops are registered as plugins first.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from trt_plugins.flavors import open_tensorrt
from trt_plugins.registration import register

LARGEST_BATCH, LARGEST_EDGE = 8, 16


class Log(trt.ILogger):  # type: ignore[misc] - the bindings have no types
    """Warnings and errors to stderr, where a failing test shows them."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            print(severity, message, file=sys.stderr)


def describe(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.name}


def main(path: Path, multiple: int) -> dict[str, Any]:
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        return {"errors": [{"op": error.node_operator(), "text": error.desc()} for error in errors]}
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor in inputs:
        small, usual, large = (
            (batch, *(edge * multiple if size == -1 else size for size in tuple(tensor.shape)[1:]))
            for batch, edge in ((1, 1), (2, 4), (LARGEST_BATCH, LARGEST_EDGE))
        )
        profile.set_shape(tensor.name, small, usual, large)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return {
        "errors": [],
        "inputs": [describe(tensor) for tensor in inputs],
        "outputs": [describe(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": Counter(network.get_layer(i).type.name for i in range(network.num_layers)),
        "plan_bytes": 0 if plan is None else plan.nbytes,
    }


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("path", type=Path)
    options.add_argument("--multiple", type=int, default=1)
    options.add_argument("--plugins", action="store_true")
    arguments = options.parse_args()
    if arguments.plugins:
        register(open_tensorrt("tensorrt-rtx"))
    print(json.dumps(main(arguments.path, arguments.multiple)))
