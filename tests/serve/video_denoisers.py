"""Tiny video denoisers made by hand: an identity, one that shows its noise map, and one that numbers its frames."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from skipvit.artifacts import MANIFEST
from skipvit.manifest import Manifest, Tensor, Tiling
from skipvit.publishing import hashes_of, new_version, write_atomically

FRAMES = 5
TILING = Tiling(tile=32, halo=4, multiple=8, frames=FRAMES, lead=1, lag=1)


def video_denoiser(kind: str = "identity", frames: int = FRAMES) -> onnx.ModelProto:
    """An ONNX video denoiser: ``identity``; ``map`` gives the noise map; ``places`` adds to each frame its place in the
    window."""
    names = ["batch", "frames", "height", "width"]
    constants = {"from": np.int64([0]), "to": np.int64([3]), "last": np.int64([3]), "end": np.int64([4])}
    constants |= {"axis": np.int64([4]), "colours": np.int64([1, 1, 1, 1, 3])}
    colours = helper.make_node("Slice", ["clips", "from", "to", "axis"], ["colour"])
    nodes = {
        "identity": [colours, helper.make_node("Identity", ["colour"], ["denoised"])],
        "map": [
            helper.make_node("Slice", ["clips", "last", "end", "axis"], ["map"]),
            helper.make_node("Expand", ["map", "colours"], ["denoised"]),
        ],
        "places": [colours, helper.make_node("Add", ["colour", "places"], ["denoised"])],
    }[kind]
    constants["places"] = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("clips", TensorProto.UINT8, [*names, 4])],
        [helper.make_tensor_value_info("denoised", TensorProto.UINT8, [*names, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_video_denoiser(root: Path, name: str = "steady", kind: str = "identity", tiling: Tiling = TILING) -> Path:
    """Writes a video denoiser into a repository."""
    (root / name).mkdir(parents=True, exist_ok=True)
    axes = ("batch", "frames", "height", "width")
    with new_version(root, name, 1) as folder:
        onnx.save(video_denoiser(kind, tiling.frames), folder / "model.onnx")
        fields: dict[str, Any] = {
            "name": name,
            "version": 1,
            "task": "video-denoising",
            "architecture": kind,
            "inputs": (Tensor(name="clips", dtype="uint8", shape=(*axes, 4)),),
            "outputs": (Tensor(name="denoised", dtype="uint8", shape=(*axes, 3)),),
            "tiling": tiling,
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
        write_atomically(folder / MANIFEST, Manifest(**fields).to_json())
    return root / name / "1"
