"""The FunctionProto bodies, run by ONNX Runtime, against the plain PyTorch references; and the ops as exported."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export import ops
from export.graph import module_to_graph
from export.ops.domain import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from skipvit.ops import (
    eca_gate_reference,
    reused_attention_reference,
    static_attention,
    static_attention_reference,
    token_dwconv_gelu,
    token_dwconv_gelu_reference,
    token_pyramid,
    token_pyramid_reference,
)

NUMPY = {torch.float32: onnx.TensorProto.FLOAT, torch.float16: onnx.TensorProto.FLOAT16}


def run_alone(body: onnx.FunctionProto, inputs: dict[str, torch.Tensor], opset: int, **attributes: int) -> torch.Tensor:
    """One node of ours and its body, as a model for ONNX Runtime. The output has as many axes as the first input."""
    first = next(iter(inputs.values()))
    kind, rank = NUMPY[first.dtype], first.ndim
    node = onnx.helper.make_node(body.name, list(inputs), ["y"], domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES)
    graph = onnx.helper.make_graph(
        [node],
        "alone",
        [onnx.helper.make_tensor_value_info(name, kind, tuple(value.shape)) for name, value in inputs.items()],
        [onnx.helper.make_tensor_value_info("y", kind, [f"axis_{i}" for i in range(rank)])],
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
    x, weight, bias = (t.to(dtype) for t in (tokens(B, h, w, C), tokens(C, 1, r, r), tokens(C)))
    inputs = {"x": x, "weight": weight, "bias": bias}
    y = run_alone(ops.token_dwconv_gelu.body(opset), inputs, opset, channels=C)
    expected = token_dwconv_gelu_reference(x.float(), weight.float(), bias.float())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)


class Blurred(nn.Module):
    """The op alone in a module, over tokens of 6 channels."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", tokens(6, 1, 3, 3))
        self.register_buffer("bias", tokens(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return token_dwconv_gelu(x, self.weight, self.bias)


def test_one_graph_of_token_dwconv_gelu_takes_any_grid() -> None:
    """Neither the recorded node nor its body holds the size of a grid."""
    graph = module_to_graph(Blurred(), {"x": tokens(2, 3, 4, 6)}, ["y"])
    for value in [*graph.graph.input, *graph.graph.output]:
        for axis, name in ((1, "height"), (2, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del graph.graph.value_info[:]  # the sizes of the sample
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 4, 6), (1, 1, 1, 6), (3, 7, 5, 6)):
        y = torch.from_numpy(session.run(["y"], {"x": tokens(*shape).numpy()})[0])
        expected = token_dwconv_gelu_reference(tokens(*shape), tokens(6, 1, 3, 3), tokens(6))
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


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


@settings(max_examples=30, deadline=None)
@given(
    opset=st.sampled_from([18, 19, 20]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    B=st.integers(1, 3),
    N=st.integers(1, 9),
    h=st.integers(1, 4),
    d=st.integers(1, 5),
    data=st.data(),
)
def test_static_attention(opset: int, dtype: torch.dtype, B: int, N: int, h: int, d: int, data: st.DataObject) -> None:
    v, matrix = tokens(B, N, h * d).to(dtype), tokens(h, data.draw(st.integers(1, N)), N).softmax(dim=-1).to(dtype)
    y = run_alone(ops.static_attention.body(opset), {"v": v, "matrix": matrix}, opset, num_heads=h)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    assert y.dtype == dtype
    expected = static_attention_reference(v.float(), matrix.float())
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(
    opset=st.sampled_from([18, 19, 20]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    B=st.integers(1, 3),
    p=st.integers(0, 2),
    n=st.integers(1, 9),
    C=st.integers(1, 9),
    own=st.booleans(),
    data=st.data(),
)
def test_token_pyramid(
    opset: int, dtype: torch.dtype, B: int, p: int, n: int, C: int, own: bool, data: st.DataObject
) -> None:
    """One body, whether all images share the matrix or each has its own."""
    shape = (data.draw(st.integers(1, n)), n)
    x, matrix = tokens(B, p + n, C).to(dtype), tokens(*((B, *shape) if own else shape)).softmax(dim=-1).to(dtype)
    y = run_alone(ops.token_pyramid.body(opset), {"x": x, "matrix": matrix}, opset, num_prefix=p)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    assert y.dtype == dtype
    expected = token_pyramid_reference(x.float(), matrix.float())
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(
    opset=st.sampled_from([18, 19, 20]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    B=st.integers(1, 3),
    N=st.integers(1, 9),
    h=st.integers(1, 4),
    d=st.integers(1, 5),
)
def test_reused_attention(opset: int, dtype: torch.dtype, B: int, N: int, h: int, d: int) -> None:
    attention, v = tokens(B, h, N, N).softmax(dim=-1).to(dtype), tokens(B, N, h * d).to(dtype)
    y = run_alone(ops.reused_attention.body(opset), {"attention": attention, "v": v}, opset, num_heads=h)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    assert y.dtype == dtype
    expected = reused_attention_reference(attention.float(), v.float())
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)


class Chain(nn.Module):
    """Static attention over p + 16 tokens, a pyramid to p + 4, and static attention for the first token alone."""

    whole: torch.Tensor
    fewer: torch.Tensor
    first: torch.Tensor

    def __init__(self, prefix: int, own: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.prefix = prefix
        self.register_buffer("whole", tokens(3, prefix + 16, prefix + 16).softmax(dim=-1).to(dtype))
        self.register_buffer("fewer", tokens(4, 16).softmax(dim=-1).to(dtype))
        self.register_buffer("first", tokens(3, 1, prefix + 4).softmax(dim=-1).to(dtype))
        self.own = nn.Linear(12, 4, dtype=dtype) if own else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = static_attention(x, self.whole)
        fewer = self.fewer if self.own is None else self.own(x[:, self.prefix :]).mT.softmax(dim=-1)  # (B, 4, 16)
        return static_attention(token_pyramid(x, fewer), self.first)


@pytest.mark.parametrize(
    ("opset", "dtype", "prefix", "own"),
    [(20, torch.float32, 1, False), (18, torch.float32, 0, True), (20, torch.float16, 2, True)],
)
def test_exported_graph_takes_any_batch(opset: int, dtype: torch.dtype, prefix: int, own: bool) -> None:
    model = Chain(prefix, own, dtype).eval()
    graph = module_to_graph(model, {"x": tokens(2, prefix + 16, 12).to(dtype)}, ["y"], opset)
    recorded = [
        (node.op_type, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})
        for node in graph.graph.node
        if node.domain == DOMAIN
    ]
    found_by = {name: value.encode() for name, value in PLUGIN_ATTRIBUTES.items()}
    assert recorded == [
        ("StaticAttention", {"num_heads": 3, **found_by}),
        ("TokenPyramid", {"num_prefix": prefix, **found_by}),
        ("StaticAttention", {"num_heads": 3, **found_by}),
    ]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    for batch in (1, 2, 5):
        x = tokens(batch, prefix + 16, 12).to(dtype)
        y = torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])
        torch.testing.assert_close(y, model(x), rtol=tolerance, atol=tolerance)


def test_onnx_runtime_runs_the_bodies_as_products_with_constants(tmp_path: Path) -> None:
    """What ONNX Runtime makes of the bodies: shapes folded, the matrices still initializers, no Slice left."""
    model = Chain(prefix=1, own=False, dtype=torch.float32)
    graph = module_to_graph(model, {"x": tokens(2, 17, 12)}, ["y"])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # that such a file is for this machine only
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    heads_apart, heads_together = ["Reshape", "Transpose"], ["Transpose", "Reshape"]
    attention = [*heads_apart, "MatMul", *heads_together]
    assert [node.op_type for node in optimised.node] == [*attention, "Split", "MatMul", "Concat", *attention]
    constants = {constant.name: tuple(constant.dims) for constant in optimised.initializer}
    products = [node.input[0] for node in optimised.node if node.op_type == "MatMul"]
    assert [constants[name] for name in products] == [(3, 17, 17), (4, 16), (3, 1, 5)]


def test_export_refuses_an_opset_that_some_engine_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"opset 17 is outside 18\.\.20"):
        module_to_graph(nn.Identity(), {"input": tokens(2, 3)}, ["y"], opset=17)


@pytest.mark.parametrize(
    "op",
    [ops.token_dwconv_gelu, ops.eca_gate, ops.static_attention, ops.token_pyramid, ops.reused_attention],
    ids=lambda op: op.NAME,
)
def test_bodies_declare_how_tensorrt_finds_the_plugin(op: object) -> None:
    body = op.body(20)  # type: ignore[attr-defined] - the ops are modules of one shape
    assert {"plugin_namespace", "plugin_version"} <= set(body.attribute)
    # A custom op named like a standard one is imported by TensorRT as the standard one.
    assert not onnx.defs.has(body.name)
    assert np.all([node.domain == "" for node in body.node])
