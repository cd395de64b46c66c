"""``config.pbtxt``: the same model folder, as NVIDIA Triton's ONNX Runtime backend reads it."""

from collections.abc import Sequence

from export.job import Job
from skipvit.artifacts import LABELS
from skipvit.manifest import Tensor

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def triton_config(name: str, file: str, job: Job) -> str:
    """Text of config.pbtxt for one model.

    Where there are labels, labels.txt names the classes of the outputs, for Triton's classification extension.

    Args:
        file: the model's file, the same in every version's folder.
        job: whose tensors have the batch axis first.
    """
    parts = [f'name: "{name}"', 'backend: "onnxruntime"', *_fixed_parts(file, job)]
    return "\n".join([*parts, f"max_batch_size: {job.max_batch}", "dynamic_batching { }", ""])


def fits(config: str, file: str, job: Job) -> bool:
    """Whether a config.pbtxt, as written here and perhaps edited since, still describes a version's files."""
    squeezed = "".join(config.split())
    return all("".join(part.split()) in squeezed for part in _fixed_parts(file, job))


def _fixed_parts(file: str, job: Job) -> list[str]:
    labels = "" if job.labels_text is None else LABELS
    return [f'default_model_filename: "{file}"', _tensors("input", job.inputs), _tensors("output", job.outputs, labels)]


def _tensors(kind: str, tensors: Sequence[Tensor], label_file: str = "") -> str:
    label = f', label_filename: "{label_file}"' if label_file else ""
    rows = [f'  {{ name: "{t.name}", data_type: {_TYPES[t.dtype]}, dims: [ {_dims(t)} ]{label} }}' for t in tensors]
    return f"{kind} [\n" + ",\n".join(rows) + "\n]"


def _dims(tensor: Tensor) -> str:
    # Triton adds the batch axis itself when max_batch_size is set, and writes -1 for an axis of any length.
    return ", ".join("-1" if isinstance(size, str) else str(size) for size in tensor.shape[1:])
