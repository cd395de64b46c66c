"""Models that are not ours as the Open Inference Protocol and Triton describe them."""

from collections.abc import Sequence
from typing import Any

from serve.foreign.config import ConfiguredTensor
from serve.foreign.model import ForeignModel

_PLATFORM = "onnxruntime_onnx"


def foreign_metadata(model: ForeignModel, versions: Sequence[str]) -> dict[str, Any]:
    """A model's metadata, with all its versions; the batch axis is in its shapes."""
    batch = [-1] if model.signature.max_rows else []

    def listed(tensors: Sequence[ConfiguredTensor]) -> list[dict[str, Any]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": [*batch, *one.dims]} for one in tensors]

    return {
        "name": model.name,
        "versions": list(versions),
        "platform": _PLATFORM,
        "inputs": listed(model.signature.inputs),
        "outputs": listed(model.signature.outputs),
    }


def foreign_config(model: ForeignModel) -> dict[str, Any]:
    """A model's configuration as Triton's model_config.proto has it; the batch axis is not in its dims."""
    batching = {"dynamic_batching": {"preferred_batch_size": [model.batcher.max_batch]}}
    return {
        "name": model.name,
        "platform": _PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": model.signature.max_rows,
        "input": [{**_tensor(one), "format": one.format} for one in model.signature.inputs],
        "output": [
            {**_tensor(one), **({"label_filename": one.label_filename} if one.label_filename else {})}
            for one in model.signature.outputs
        ],
        "default_model_filename": model.config.file,
        **(batching if model.config.dynamic_batching else {}),
    }


def _tensor(one: ConfiguredTensor) -> dict[str, Any]:
    kind = "STRING" if one.datatype == "BYTES" else one.datatype
    reshape = {} if one.reshaped is None else {"reshape": {"shape": list(one.reshaped)}}
    return {"name": one.name, "data_type": f"TYPE_{kind}", "dims": list(one.dims), **reshape}
