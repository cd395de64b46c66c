"""Versions of one classifier that can be told by their answers: each moves the classes of the first on by one."""

from pathlib import Path

from skipvit.artifacts import MANIFEST, read_entry, sha256_of
from skipvit.publishing import new_version, write_atomically

# One block of width 64 over 49 patches: less than a millisecond, so that the server and not the model is measured.
_MODEL_ARGUMENTS = {"img_size": 224, "patch_size": 32, "depth": 1, "num_classes": 1000}


def export_first(root: Path, name: str) -> None:
    """Exports version 1 of a small classifier with random weights into a repository."""
    from export.to_onnx import main as to_onnx

    arguments = [f"--model-arg={key}={value}" for key, value in _MODEL_ARGUMENTS.items()]
    if to_onnx(["vit_micro_patch2_8", "--name", name, "--out", str(root), *arguments]) != 0:
        raise RuntimeError("the benchmark's model could not be exported; see the message above")


def publish(root: Path, name: str, version: int) -> None:
    """Writes a version that answers class k + version - 1, modulo the number of classes, where the first answers k."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    first = read_entry(root, name, 1)
    classes = first.manifest.outputs[0].shape[-1]
    model = onnx.load(first.model_path())
    for weight in model.graph.initializer:
        if classes in weight.dims:
            values = numpy_helper.to_array(weight)
            moved = np.roll(values, version - 1, axis=list(weight.dims).index(classes))
            weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
    with new_version(root, name, version) as folder:
        file = folder / first.model_path().name
        onnx.save(model, file)
        files = {**first.manifest.files, file.name: sha256_of(file)}
        manifest = first.manifest.model_copy(update={"version": version, "files": files})
        write_atomically(folder / MANIFEST, manifest.to_json())
