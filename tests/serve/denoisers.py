"""Tiny denoisers made by hand, whose answers can be told in advance: an identity, a blur, and one that inverts."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from serve.engines.engine import OnnxCpuEngine, Rows
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import MANIFEST, read_entry
from skipvit.manifest import Manifest, Tensor, Tiling
from skipvit.publishing import hashes_of, new_version, write_atomically
from skipvit.transforms import Pixels
from tests.serve.servers import HeldEngine, encoded

TILING = Tiling(tile=64, halo=8, multiple=8)
_ANY = ["batch", "height", "width", 3]


def denoiser(kind: str = "identity", shape: list[str | int] | None = None) -> onnx.ModelProto:
    """An ONNX denoiser: ``identity``, ``inverse`` (255 - x), ``blur`` (the mean of 3 x 3 pixels, reflected at edges),
    ``half`` (which gives half as many rows, and so breaks its promise)."""
    nodes, constants = {
        "identity": ([helper.make_node("Identity", ["images"], ["denoised"])], {}),
        "inverse": ([helper.make_node("Sub", ["white", "images"], ["denoised"])], {"white": np.uint8(255)}),
        "half": (
            [helper.make_node("Slice", ["images", "from", "to", "axes", "steps"], ["denoised"])],
            {"from": np.int64([0]), "to": np.int64([9999]), "axes": np.int64([1]), "steps": np.int64([2])},
        ),
        "blur": (_blur(), _blur_constants()),
    }[kind]
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape or _ANY)],
        [helper.make_tensor_value_info("denoised", TensorProto.UINT8, _ANY if kind != "half" else ["b", "h", "w", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _blur() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", ["planes", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "kernel"], ["blurred"], group=3),
        helper.make_node("Transpose", ["blurred"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Round", ["pixels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["denoised"], to=TensorProto.UINT8),
    ]


def _blur_constants() -> dict[str, Any]:
    return {"pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "kernel": np.full((3, 1, 3, 3), 1 / 9, np.float32)}


def write_denoiser(root: Path, name: str = "clean", kind: str = "identity", **changes: Any) -> Path:
    """Writes a denoiser with one sample into a repository; ``changes`` replace fields of its manifest."""
    (root / name).mkdir(parents=True, exist_ok=True)
    with new_version(root, name, 1) as folder:
        onnx.save(changes.pop("graph", None) or denoiser(kind), folder / "model.onnx")
        (folder / "sample-grey.png").write_bytes(encoded(Image.new("RGB", (8, 8), (90, 90, 90))))
        fields: dict[str, Any] = {
            "name": name,
            "version": 1,
            "task": "denoising",
            "architecture": kind,
            "inputs": (Tensor(name="images", dtype="uint8", shape=("batch", "height", "width", 3)),),
            "outputs": (Tensor(name="denoised", dtype="uint8", shape=("batch", "height", "width", 3)),),
            "tiling": TILING,
            "samples": ("sample-grey.png",),
            "weights_from": "a test",
            "created": "2026-01-01T00:00:00Z",
            "commit": "unknown",
            "versions": {},
            "models": {"fp32": "model.onnx"},
            "files": hashes_of(folder),
            "parity": (),
            "macs": 0,
            "params": 0,
        }
        write_atomically(folder / MANIFEST, Manifest(**{**fields, **changes}).to_json())
    return root / name / "1"


class HeldDenoiser(HeldEngine):
    """A denoiser held back until its gate opens, that remembers the sizes of its batches."""

    def __init__(self, engine: OnnxCpuEngine) -> None:
        super().__init__(engine)
        self.batches: list[int] = []
        self.closes_at = -1

    def close_after(self, runs: int) -> None:
        """Counts from now on, and closes the gate after so many runs."""
        self.entered = self.seen = 0
        self.batches.clear()
        self.closes_at = runs or -1
        if not runs:
            self.gate.clear()

    def run(self, batch: Pixels) -> Rows:
        if len(self.batches) == self.closes_at:
            self.gate.clear()
        self.batches.append(len(batch))
        return super().run(batch)


def held_denoiser(root: Path, settings: Settings, name: str = "clean") -> tuple[Repository, HeldDenoiser]:
    entry = read_entry(root, name)
    engine = HeldDenoiser(OnnxCpuEngine.from_entry(entry))
    return Repository([ServedModel(entry, engine, settings)]), engine
