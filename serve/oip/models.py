"""Served models as the Open Inference Protocol and Triton describe them: what can be asked, and what is answered."""

from collections.abc import Sequence
from typing import Any

from serve.foreign.model import ForeignModel
from serve.models.served_model import ServedModel
from serve.oip.foreign_models import foreign_config, foreign_metadata
from serve.settings import Settings
from serve.tasks import contract_of

_PLATFORMS = {
    "onnx-cpu": "onnxruntime_onnx",
    "onnx-cuda": "onnxruntime_onnx",
    "tensorrt": "tensorrt_plan",
    "tensorrt-rtx": "tensorrt_plan",
}
_BACKENDS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
_TYPES = {"uint8": "UINT8", "float32": "FP32"}


def input_name(model: ServedModel) -> str:
    """The name of a model's one input."""
    return model.entry.manifest.inputs[0].name


def input_row(model: ServedModel) -> tuple[int, ...]:
    """One row of the input: -1 is any size from 1. Pictures to restore are cut into tiles here."""
    return (-1, -1, 3) if model.task == "denoising" else model.row


def output_name(model: ServedModel) -> str:
    """The name of the output that the server fetches."""
    return contract_of(model.entry).output


def output_type(model: ServedModel) -> str:
    """Its datatype in the protocol's terms."""
    return _TYPES[contract_of(model.entry).dtype]


def output_row(model: ServedModel) -> tuple[int, ...]:
    """One row of that output."""
    if model.task == "denoising":
        return (-1, -1, 3)
    return contract_of(model.entry).result or (model.classes,)


def metadata_of(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """A model's metadata; all its ``versions`` that are served are in it.

    Of the outputs there is only the one that the server fetches, not all that the graph has.
    """
    if isinstance(model, ForeignModel):
        return foreign_metadata(model, versions)
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": _PLATFORMS[model.engine_info.kind],
        "inputs": [{"name": input_name(model), "datatype": "UINT8", "shape": [-1, *input_row(model)]}],
        "outputs": [{"name": output_name(model), "datatype": output_type(model), "shape": [-1, *output_row(model)]}],
    }


def config_of(model: ServedModel, settings: Settings) -> dict[str, Any]:
    """A model's configuration as Triton's model_config.proto has it, in JSON; what is not said is its default there.

    ``max_batch_size`` is how many rows a request may have. They run in batches of the engine's own size.
    """
    if isinstance(model, ForeignModel):
        return foreign_config(model)
    platform = _PLATFORMS[model.engine_info.kind]
    still = len(model.row) == 3
    out = {
        "name": output_name(model),
        "data_type": f"TYPE_{output_type(model)}",
        "dims": list(output_row(model)),
        **({"label_filename": "labels.txt"} if model.labels else {}),
    }
    return {
        "name": model.name,
        "platform": platform,
        "backend": _BACKENDS[platform],
        "version_policy": _version_policy(settings.of(model.name).versions),
        "max_batch_size": settings.max_files,
        "input": [
            {
                "name": input_name(model),
                "data_type": "TYPE_UINT8",
                "format": "FORMAT_NHWC" if still else "FORMAT_NONE",
                "dims": list(input_row(model)),
            }
        ],
        "output": [out],
        "default_model_filename": model.engine_info.file,
        "dynamic_batching": {
            "preferred_batch_size": [model.batcher.max_batch],
            "max_queue_delay_microseconds": round(model.batcher.max_wait_s * 1e6),
        },
    }


def _version_policy(policy: str | Sequence[int]) -> dict[str, Any]:
    if policy == "latest":
        return {"latest": {"num_versions": 1}}
    return {"all": {}} if policy == "all" else {"specific": {"versions": list(policy)}}
