"""The FunctionProto bodies, run by ONNX Runtime, against the plain PyTorch references."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export import ops
from export.ops.domain import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from skipvit.ops import eca_gate_reference, token_dwconv_gelu_reference

NUMPY = {torch.float32: onnx.TensorProto.FLOAT, torch.float16: onnx.TensorProto.FLOAT16}


def run_alone(body: onnx.FunctionProto, inputs: dict[str, torch.Tensor], opset: int, **attributes: int) -> torch.Tensor:
    """One node of ours and its body, as a model for ONNX Runtime."""
    kind = NUMPY[next(iter(inputs.values())).dtype]
    node = onnx.helper.make_node(body.name, list(inputs), ["y"], domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES)
    graph = onnx.helper.make_graph(
        [node],
        "alone",
        [onnx.helper.make_tensor_value_info(name, kind, tuple(value.shape)) for name, value in inputs.items()],
        [onnx.helper.make_tensor_value_info("y", kind, ["a", "b", "c"])],
    )
    model = onnx.helper.make_model(
        graph,
        functions=[body],
        opset_imports=[onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(max_examples=30, deadline=None)
@given(
    opset=st.sampled_from([18, 19, 20]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    B=st.integers(1, 3),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    C=st.integers(1, 9),
    r=st.sampled_from([1, 3, 5, 7]),
)
def test_token_dwconv_gelu(opset: int, dtype: torch.dtype, B: int, h: int, w: int, C: int, r: int) -> None:
    x, weight, bias = (t.to(dtype) for t in (tokens(B, h * w, C), tokens(C, 1, r, r), tokens(C)))
    inputs = {"x": x, "weight": weight, "bias": bias}
    y = run_alone(ops.token_dwconv_gelu.body(opset), inputs, opset, grid_h=h, grid_w=w, channels=C)
    expected = token_dwconv_gelu_reference(x.float(), weight.float(), bias.float(), h, w)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(
    opset=st.sampled_from([18, 20]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    B=st.integers(1, 3),
    n=st.integers(1, 20),
    C=st.integers(1, 20),
)
def test_eca_gate(opset: int, dtype: torch.dtype, B: int, n: int, C: int) -> None:
    x, weight = tokens(B, n, C).to(dtype), tokens(1, 1, 3).to(dtype)
    gate = run_alone(ops.eca_gate.body(opset), {"x": x, "weight": weight}, opset)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    expected = eca_gate_reference(x.float(), weight.float())
    torch.testing.assert_close(gate.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("op", [ops.token_dwconv_gelu, ops.eca_gate])
def test_bodies_declare_how_tensorrt_finds_the_plugin(op: object) -> None:
    body = op.body(20)  # type: ignore[attr-defined] - the ops are modules of one shape
    assert {"plugin_namespace", "plugin_version"} <= set(body.attribute)
    # A custom op named like a standard one is imported by TensorRT as the standard one.
    assert not onnx.defs.has(body.name)
    assert np.all([node.domain == "" for node in body.node])
