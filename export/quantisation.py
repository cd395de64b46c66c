"""A classifier's graph with its linear layers in int8, as standard ONNX nodes that any CPU runtime takes.

QuantizeLinear and DequantizeLinear stand around every product of tokens with a weight matrix: weights in int8 with a
scale a column, activations in uint8 with one scale a tensor that calibration fixed, so that a picture's answer does not
depend on its batch. Attention, norms and our ops stay in float32: rounded too, attention loses the model's answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from export.measures import INT8_MIN_AGREEMENT
from export.smoothing import linear_layers, smooth
from skipvit.transforms import Pixels

_BATCH = 16
_LINEAR = ["Gemm", "MatMul"]


@dataclass(frozen=True)
class Int8:
    """What the user decides about int8.

    Attributes:
        calibration: folder of pictures that fix the ranges of activations, None for half of those to compare on.
        min_agreement: least share of pictures whose class has to be float32's, 0..1.
        full_range: weights of 8 bits and not 7.
    """

    calibration: Path | None = None
    min_agreement: float = INT8_MIN_AGREEMENT
    full_range: bool = False


def quantise(graph: onnx.ModelProto, images: Pixels, full_range: bool = False) -> onnx.ModelProto:
    """The graph with its linear layers in int8.

    Args:
        graph: a classifier in float32, its first input pictures and its first output logits; it is not changed.
        images: what ranges are taken from, (B, H, W, 3) uint8.
        full_range: weights of 8 bits. With 7, two products of a weight and an activation fit into the 16 bits in which
            a CPU without VNNI adds them, so that all give the same; with 8, such a CPU clips the sum.

    Raises:
        ValueError: there is nothing to quantise.
        ParityError: smoothing changed what the graph computes.
    """
    names = [node.name for node in linear_layers(graph.graph)]
    if not names:
        raise ValueError("the model has no linear layers, which int8 is for; export it in fp32 or fp16")
    smoothed = smooth(graph, images)
    # else ONNX Runtime advises a step that folds and renames, which the exporter has done
    onnx.helper.set_model_props(smoothed, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with TemporaryDirectory() as scratch:
        source, target = Path(scratch, "float.onnx"), Path(scratch, "int8.onnx")
        onnx.save(smoothed, source)
        quantize_static(
            source,
            target,
            _Pictures(graph.graph.input[0].name, images),
            op_types_to_quantize=_LINEAR,
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=not full_range,
            extra_options={"OpTypesToExcludeOutputQuantization": _LINEAR},
        )
        found = onnx.load(target)
    del found.metadata_props[:]
    found.producer_name, found.producer_version = graph.producer_name, graph.producer_version
    onnx.checker.check_model(found, full_check=True)
    return found


class _Pictures(CalibrationDataReader):
    """Pictures in batches, as ONNX Runtime's calibration asks for them."""

    def __init__(self, name: str, images: Pixels) -> None:
        self._batches: Iterator[dict[str, Any]] = iter(
            [{name: images[start : start + _BATCH]} for start in range(0, len(images), _BATCH)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
