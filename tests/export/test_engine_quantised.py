"""Quantised graphs, as other tools make them, become engines as they are: their Q/DQ nodes say what is rounded."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from export.to_trt import main

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'skipvit[trt-rtx]'"
)
KINDS = {
    "int8": (QuantType.QInt8, CalibrationMethod.MinMax),
    "fp8": (QuantType.QFLOAT8E4M3FN, CalibrationMethod.Distribution),
}


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Four batches of random input."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._batches, None)


def convolution() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "head": rng.standard_normal((8, 4)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("ReduceMean", ["active", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("precision", KINDS)
def test_a_quantised_graph_builds(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trt_plugins.gpus.find_gpu", lambda: None)
    kind, method = KINDS[precision]
    onnx.save(convolution(), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "net.onnx",
        Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=kind,
        weight_type=kind,
        per_channel=True,
        calibrate_method=method,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    capsys.readouterr()
    assert main([str(tmp_path / "net.onnx"), "--flavor", "rtx"]) == 0
    out = capsys.readouterr().out
    assert "  dequantize" in out
    report = json.loads(out.splitlines()[-1])
    assert report["precision"] == precision
    assert (tmp_path / f"net.{precision}.rtx.plan").stat().st_size > 0
