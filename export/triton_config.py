"""``config.pbtxt``: the same model folder, as NVIDIA Triton's ONNX Runtime backend reads it."""

from collections.abc import Sequence

from skipvit.artifacts import LABELS
from skipvit.manifest import Tensor

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def triton_config(
    name: str, file: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], max_batch: int = 64
) -> str:
    """Text of config.pbtxt for one model.

    Args:
        file: the model's file, the same in every version's folder.
        inputs: with the batch axis first.
        outputs: likewise; labels.txt names their classes, for Triton's classification extension.
        max_batch: upper bound of the batches that Triton makes.
    """
    parts = [f'name: "{name}"', 'backend: "onnxruntime"', *_fixed_parts(file, inputs, outputs)]
    return "\n".join([*parts, f"max_batch_size: {max_batch}", "dynamic_batching { }", ""])


def fits(config: str, file: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether a config.pbtxt, as written here and perhaps edited since, still describes a version's files."""
    squeezed = "".join(config.split())
    return all("".join(part.split()) in squeezed for part in _fixed_parts(file, inputs, outputs))


def _fixed_parts(file: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[str]:
    return [f'default_model_filename: "{file}"', _tensors("input", inputs), _tensors("output", outputs, LABELS)]


def _tensors(kind: str, tensors: Sequence[Tensor], label_file: str = "") -> str:
    # Triton adds the batch axis itself when max_batch_size is set.
    label = f', label_filename: "{label_file}"' if label_file else ""
    rows = [
        f'  {{ name: "{t.name}", data_type: {_TYPES[t.dtype]}, dims: [ {", ".join(map(str, t.shape[1:]))} ]{label} }}'
        for t in tensors
    ]
    return f"{kind} [\n" + ",\n".join(rows) + "\n]"
