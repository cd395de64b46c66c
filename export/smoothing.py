"""Outliers of activations moved into the weights that read them, without a change of what the graph computes.

A layer norm whose output only linear layers read is divided by s_j in channel j, and their weights of that channel are
multiplied by it: SmoothQuant (Xiao et al. 2023, arXiv:2211.10438, equations 3 and 4, strength 0.5). A tensor that is
rounded with one scale then loses less in its small channels.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import get_node_attr_value, make_tensor_value_info

from export.measures import Floats, ParityError, open_session
from skipvit.transforms import Pixels

_MAX_RELATIVE = 1e-4
_BATCH = 4  # every normalised tensor of a batch is held at a time
_CHECKED = 8  # pictures


def smooth(graph: onnx.ModelProto, images: Pixels) -> onnx.ModelProto:
    """A graph that computes the same, evened out for being quantised.

    Args:
        graph: a classifier, its first input pictures and its first output logits; it is not changed.
        images: what its activations are measured on, (B, H, W, 3) uint8.

    Raises:
        ParityError: the two graphs' logits differ by more than rounding.
    """
    found = onnx.ModelProto()
    found.CopyFrom(graph)
    view = _View(found.graph)
    norms = [node for node in found.graph.node if node.op_type == "LayerNormalization"]
    folds = {node.output[0]: (node, readers) for node in norms if (readers := view.linear_readers(node))}
    for output, largest in _largest(graph, list(folds), images).items():
        norm, readers = folds[output]
        weight = np.max([view.largest_weight(reader) for reader in readers], axis=0)
        scale = np.where((largest > 0) & (weight > 0), np.sqrt(largest / np.where(weight > 0, weight, 1)), 1.0)
        for index in range(1, len(norm.input)):
            view.replace(norm, index, view.constants[norm.input[index]] / scale)
        for reader in readers:
            by_channel = scale if view.channel_axis(reader) == 1 else scale[:, None]
            view.replace(reader, 1, view.constants[reader.input[1]] * by_channel)
    view.drop_unused()
    _check(graph, found, images[:_CHECKED])
    return found


def linear_layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Products of activations with a constant matrix; those of two activations, as in attention, are not among them."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        node
        for node in graph.node
        if (node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transA", 0)))
        and node.input[1] in matrices
        and node.input[0] not in matrices
    ]


class _View:
    """A graph's constants, shapes and readers by name, and changes of its constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._shapes = {value.name: [axis.dim_value for axis in _axes(value)] for value in graph.value_info}
        self._linear = {node.output[0] for node in linear_layers(graph)}
        self._outputs = {value.name for value in graph.output}
        self._readers: Mapping[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)

    def linear_readers(self, norm: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The linear layers that a norm's output goes to, or none if anything else reads it."""
        if norm.input[1] not in self.constants or norm.output[0] not in self._shapes:
            return []
        found: list[onnx.NodeProto] = []
        todo = [norm.output[0]]
        while todo:
            name = todo.pop()
            if name in self._outputs:
                return []
            for node in self._readers[name]:
                if node.output[0] in self._linear and list(node.input).count(name) == 1:
                    found.append(node)
                elif self._keeps_channels(node, name):
                    todo.append(node.output[0])
                else:
                    return []
        return found

    def _keeps_channels(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether a node only moves, drops or repeats whole tokens, so that channels stay what they are."""
        before, after = self._shapes.get(name, []), self._shapes.get(node.output[0], [])
        last = len(before) - 1
        if not before or not after or after[-1] != before[-1] or node.input[0] != name:
            return False
        if node.op_type == "Slice":
            axes = self.constants.get(node.input[3]) if len(node.input) > 3 else None
            return axes is not None and not {last, -1} & set(axes.tolist())
        if node.op_type == "Gather":
            return _attribute(node, "axis", 0) not in (last, -1)
        return node.op_type == "Reshape"

    def channel_axis(self, layer: onnx.NodeProto) -> int:
        """The axis of a linear layer's matrix that runs over input channels."""
        return 1 if _attribute(layer, "transB", 0) else 0

    def largest_weight(self, layer: onnx.NodeProto) -> Floats:
        """The largest absolute weight of each input channel, (C,)."""
        return np.abs(self.constants[layer.input[1]]).max(axis=1 - self.channel_axis(layer))

    def replace(self, node: onnx.NodeProto, index: int, value: Any) -> None:
        """Gives a node a constant of its own: the one it had may be another's too."""
        name = f"{node.input[index]}.smooth.{node.output[0]}"
        self._graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        node.input[index] = name

    def drop_unused(self) -> None:
        read = {name for node in self._graph.node for name in node.input} | self._outputs
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _axes(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return get_node_attr_value(node, name) if any(a.name == name for a in node.attribute) else default


def _largest(graph: onnx.ModelProto, names: list[str], images: Pixels) -> dict[str, Floats]:
    """The largest absolute value of each channel of some tensors, (C,) each."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    watched.graph.output.extend(make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    found: dict[str, Floats] = {}
    for outputs in _runs(watched, names, images):
        for name, value in zip(names, outputs, strict=True):
            largest = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, largest), largest)
    return found


def _runs(graph: onnx.ModelProto, names: list[str], images: Pixels) -> Iterator[list[Any]]:
    session = open_session(graph.SerializeToString())
    for start in range(0, len(images) if names else 0, _BATCH):
        yield session.run(names, {graph.graph.input[0].name: images[start : start + _BATCH]})


def _check(graph: onnx.ModelProto, smoothed: onnx.ModelProto, images: Pixels) -> None:
    logits = [graph.graph.output[0].name]
    before, after = (np.concatenate([run[0] for run in _runs(g, logits, images)]) for g in (graph, smoothed))
    relative = float(np.abs(after - before).max() / max(float(np.abs(before).max()), 1e-12))
    if not relative <= _MAX_RELATIVE:
        raise ParityError(
            f"smoothing before quantisation changed the logits by {relative:.1e} of the largest, which rounding does "
            "not explain; nothing was written. Export in fp32, and report the model"
        )
