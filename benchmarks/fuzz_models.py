"""Models that take no time, so that a fuzz test spends its own on what reads requests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from skipvit.artifacts import LABELS, MANIFEST, sha256_of
from skipvit.manifest import Manifest, Task, Tensor, Tiling
from skipvit.publishing import hashes_of, new_version, write_atomically
from skipvit.transforms import Preprocessing

SIDE = 8
CLASSES = 4
TILE = 32
FRAMES = 3
_ONNX_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
_SIMPLE = """max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] }, { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] } ]
output { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] }
output { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
dynamic_batching { }
"""

Shape = tuple[int | str, ...]


def write_models(root: Path) -> None:
    """Fills a repository: "shades" classifies, "clean" and "steady" denoise, "simple" and "text" are not ours."""
    _classifier(root, "shades")
    picture: Shape = ("batch", "height", "width", 3)
    _denoiser(root, "clean", "denoising", "images", picture, Tiling(tile=TILE, halo=4, multiple=8))
    clip: Shape = ("batch", "frames", "height", "width", 4)
    tiling = Tiling(tile=TILE, halo=4, multiple=8, frames=FRAMES, lead=1, lag=1)
    _denoiser(root, "steady", "video-denoising", "clips", clip, tiling)
    pair = [("INPUT0", "int32", ("batch", 16)), ("INPUT1", "int32", ("batch", 16))]
    sums = [("OUTPUT0", "int32", ("batch", 16)), ("OUTPUT1", "int32", ("batch", 16))]
    nodes = [("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), ("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
    _write_plain(root, "simple", _graph(nodes, pair, sums))
    (root / "simple" / "config.pbtxt").write_text(_SIMPLE)
    text = helper.make_tensor_value_info("INPUT0", TensorProto.STRING, ["batch", "n"])
    same = helper.make_tensor_value_info("OUTPUT0", TensorProto.STRING, ["batch", "n"])
    node = helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])
    _write_plain(root, "text", _model(helper.make_graph([node], "text", [text], [same])))


def _classifier(root: Path, name: str) -> None:
    (root / name).mkdir(parents=True)
    write_atomically(root / name / LABELS, "".join(f"class {k}\n" for k in range(CLASSES)))
    shape: Shape = ("batch", SIDE, SIDE, 3)
    nodes = [
        ("Cast", ["image"], ["float"], {"to": TensorProto.FLOAT}),
        ("ReduceMean", ["float", "axes"], ["mean"], {"keepdims": 0}),
        ("Unsqueeze", ["mean", "last"], ["column"]),
        ("Mul", ["column", "slopes"], ["logits"]),
        ("Softmax", ["logits"], ["probabilities"], {"axis": 1}),
    ]
    constants = {
        "axes": np.array([1, 2, 3]),
        "last": np.array([1]),
        "slopes": np.array([[0, 0.01, 0.02, 0.03]], np.float32),
    }
    given: Shape = ("batch", CLASSES)
    graph = _graph(nodes, [("image", "uint8", shape)], [("probabilities", "float32", given)], constants)
    with new_version(root, name, 1) as folder:
        onnx.save(graph, folder / "model.onnx")
        more = {LABELS: sha256_of(root / name / LABELS)}
        manifest = _manifest(
            folder, name, "classification", ("image", "uint8", shape), ("probabilities", "float32", given), more,
            preprocessing=Preprocessing(height=SIDE, width=SIDE, resize="crop"),
        )  # fmt: skip
        write_atomically(folder / MANIFEST, manifest.to_json())


def _denoiser(root: Path, name: str, task: Task, tensor: str, shape: Shape, tiling: Tiling) -> None:
    (root / name).mkdir(parents=True)
    given = (*shape[:-1], 3)
    nodes = [("Slice", [tensor, "from", "to", "axis"], ["denoised"])]
    constants = {"from": np.array([0]), "to": np.array([3]), "axis": np.array([-1])}
    graph = _graph(nodes, [(tensor, "uint8", shape)], [("denoised", "uint8", given)], constants)
    with new_version(root, name, 1) as folder:
        onnx.save(graph, folder / "model.onnx")
        manifest = _manifest(
            folder, name, task, (tensor, "uint8", shape), ("denoised", "uint8", given), {}, tiling=tiling
        )
        write_atomically(folder / MANIFEST, manifest.to_json())


def _manifest(
    folder: Path, name: str, task: Task, taken: Any, given: Any, more: dict[str, str], **fields: Any
) -> Manifest:
    def tensor(named: Any) -> Tensor:
        return Tensor(name=named[0], dtype=named[1], shape=named[2])

    return Manifest(
        name=name, version=1, task=task, architecture="none", inputs=(tensor(taken),), outputs=(tensor(given),),
        weights_from="nothing", created="2026-01-01T00:00:00Z", commit="unknown", versions={},
        models={"fp32": "model.onnx"}, files={**hashes_of(folder), **more}, parity=(), macs=0, params=0, **fields,
    )  # fmt: skip


def _graph(
    nodes: Sequence[Any], taken: Sequence[Any], given: Sequence[Any], constants: dict[str, Any] | None = None
) -> onnx.ModelProto:
    made = [helper.make_node(op, inputs, outputs, **(more[0] if more else {})) for op, inputs, outputs, *more in nodes]

    def described(tensors: Sequence[Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, _ONNX_TYPES[dtype], shape) for name, dtype, shape in tensors]

    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    return _model(helper.make_graph(made, "fuzz", described(taken), described(given), initializers))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _write_plain(root: Path, name: str, model: onnx.ModelProto) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
