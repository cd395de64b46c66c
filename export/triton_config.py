"""``config.pbtxt``: the same model folder, as NVIDIA Triton's ONNX Runtime backend reads it."""

from skipvit.artifacts import LABELS, Manifest, Tensor

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def triton_config(manifest: Manifest, labels: bool, max_batch: int = 64) -> str:
    """Text of config.pbtxt for the first model of the manifest.

    Args:
        labels: whether labels.txt lies in the model's folder; Triton's classification extension reads it.
        max_batch: upper bound of the batches that Triton makes.
    """
    file = next(iter(manifest.models.values()))
    return "\n".join(
        [
            f'name: "{manifest.name}"',
            'backend: "onnxruntime"',
            f'default_model_filename: "{file}"',
            f"max_batch_size: {max_batch}",
            _tensors("input", manifest.inputs, None),
            _tensors("output", manifest.outputs, LABELS if labels else None),
            "dynamic_batching { }",
            "",
        ]
    )


def _tensors(kind: str, tensors: tuple[Tensor, ...], label_file: str | None) -> str:
    # Triton adds the batch axis itself when max_batch_size is set.
    label = f', label_filename: "{label_file}"' if label_file else ""
    rows = [
        f'  {{ name: "{t.name}", data_type: {_TYPES[t.dtype]}, dims: [ {", ".join(map(str, t.shape[1:]))} ]{label} }}'
        for t in tensors
    ]
    return f"{kind} [\n" + ",\n".join(rows) + "\n]"
