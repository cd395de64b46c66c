"""A machine with a GPU and TensorRT, all of them fake, and engines in the repositories of tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from skipvit.artifacts import MANIFEST, sha256_of
from skipvit.manifest import Parity
from tests.serve.servers import CLASSES
from tests.trt_plugins.fake_gpu import FakeGpu, FakeMemory
from tests.trt_plugins.fake_tensorrt import DataType, Model, fake_tensorrt
from trt_plugins import engine_plan
from trt_plugins.flavors import Tensorrt, TensorrtMissing
from trt_plugins.gpus import Gpu
from trt_plugins.session import start_session

H200 = Gpu("NVIDIA H200", (9, 0))


def brightness_engine(side: int = 8, classes: int = CLASSES) -> Model:
    """The tiny classifier's engine: it says 1.0 for the class of a row's brightness."""

    def compute(inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        levels = np.rint(inputs["image"].reshape(len(inputs["image"]), -1).mean(axis=1) * 9 / 255).astype(int)
        return {"probabilities": np.eye(classes, dtype=np.float32)[levels]}

    row = (side, side, 3)
    return Model(
        {"image": (DataType.UINT8, (1, *row), (4, *row), (8, *row))},
        {"probabilities": (DataType.FLOAT, lambda shape: (shape[0], classes))},
        compute,
    )


PARITY = Parity(
    file="model.fp16.plan", precision="fp16", engine="TensorRT", images=1, images_from="a test", max_abs=0.0,
    mean_abs=0.0, max_relative=0.0, top1_agreement=1.0, tolerance="none",
)  # fmt: skip


def add_engine(folder: Path, file: str = "model.fp16.plan", content: bytes = b"plan", **changes: Any) -> None:
    """Puts an engine into a version's folder and manifest; ``changes`` replace fields of its record."""
    (folder / file).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    record = {
        "file": file, "made_from": "model.onnx", "precision": "fp16", "flavor": "tensorrt", "flavor_version": "9.9.9",
        "gpu": H200.name, "compute_capability": "9.0", "shapes": {"image": [[1, 8, 8, 3], [4, 8, 8, 3], [8, 8, 8, 3]]},
        "plugins": {}, "bodies": {}, "options": {}, "status": "verified", "parity": PARITY.model_dump(mode="json"),
    }  # fmt: skip
    record.update(changes)
    if record["status"] != "verified":
        record["parity"] = None
    manifest["engines"] = [*manifest.get("engines", []), record]
    manifest["files"][file] = sha256_of(folder / file)
    (folder / MANIFEST).write_text(json.dumps(manifest))


class Machine:
    """A machine with a GPU and TensorRT, all of them fake; ``models`` are the plans that its TensorRT takes."""

    def __init__(self) -> None:
        self.gpu: Gpu | None = H200
        self.device = FakeGpu()
        self.models = {b"plan": brightness_engine()}
        self.installed: dict[str, Tensorrt] = {}
        self.opened: list[str] = []
        self.install("tensorrt")

    def install(self, flavor: str) -> None:
        self.installed[flavor] = fake_tensorrt(self.device, self.models, flavor)

    def find_gpu(self) -> Gpu | None:
        return self.gpu

    def open_tensorrt(self, flavor: str) -> Tensorrt:
        if flavor not in self.installed:
            raise TensorrtMissing(f"{flavor} is not installed; run: pip install it")
        return self.installed[flavor]

    def open_session(self, path: Path, tensorrt: Tensorrt, *, memory: str, rows: Any, max_batch: int) -> Any:
        self.opened.append(path.name)
        plan = engine_plan.read_plan(path, tensorrt)
        return start_session(plan, tensorrt, FakeMemory(self.device), path, rows=rows, max_batch=max_batch)
