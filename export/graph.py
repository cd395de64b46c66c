"""PyTorch module to ONNX graph: one call of the exporter, our ops' bodies, and nothing of this machine left in it."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export import ops
from export.deploy import DeployClassifier
from export.ops.domain import DOMAIN, VERSION, NodeOp

MIN_OPSET, MAX_OPSET = 18, 20
INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
_MAX_BATCH = 4096


def to_graph(model: DeployClassifier, height: int, width: int, opset: int = MAX_OPSET) -> onnx.ModelProto:
    """Exports a deployable classifier with a dynamic batch axis.

    Input ``images`` is uint8 (batch, height, width, 3); outputs ``logits`` and ``probabilities`` are float32
    (batch, num_classes).

    Raises:
        ValueError: the opset is outside 18..20.
    """
    sample = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    return module_to_graph(model, {INPUT: sample}, [LOGITS, PROBABILITIES], opset)


def module_to_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    opset: int = MAX_OPSET,
    dynamic: Mapping[int, Any] | None = None,
    node_ops: Sequence[NodeOp] = ops.ALL,
) -> onnx.ModelProto:
    """Exports any module; our ops in it become nodes of domain skipvit with their bodies beside them.

    Args:
        module: takes and returns tensors, and the first axis of each is the batch, which stays dynamic.
        inputs: a sample of each argument of ``forward``, in order, by the name to give it. Batch 2 keeps it from being
            fixed.
        outputs: names to give the outputs, in order.
        dynamic: further dynamic axes, the same for each input: axis to ``torch.export.Dim``, or a multiple of one.
        node_ops: the torch ops to write as nodes of ours.

    Raises:
        ValueError: the opset is outside 18..20.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset {opset} is outside {MIN_OPSET}..{MAX_OPSET}, the range that every target engine takes")
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter's own deprecations; what it makes is compared in export/parity.py.
        warnings.simplefilter("ignore")
        _quiet_exporter()
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=tuple({0: batch, **(dynamic or {})} for _ in inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table={op.TORCH_OP: op.record for op in node_ops},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _add_bodies(graph, opset, node_ops)
    _strip(graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _quiet_exporter() -> None:
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)


def _add_bodies(graph: onnx.ModelProto, opset: int, node_ops: Sequence[NodeOp]) -> None:
    used = {node.op_type for node in graph.graph.node if node.domain == DOMAIN}
    graph.functions.extend(op.body(opset) for op in node_ops if op.NAME in used)
    if used and DOMAIN not in {imported.domain for imported in graph.opset_import}:
        graph.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def _strip(graph: onnx.ModelProto) -> None:
    """Removes the exporter's debugging notes: source paths of the exporting machine, in every node."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    graph.doc_string = graph.graph.doc_string = ""
    for item in [*graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]:
        del item.metadata_props[:]
        item.doc_string = ""
    for value in [*graph.graph.input, *graph.graph.output]:
        del value.metadata_props[:]
        value.doc_string = ""
