"""One entry of the model repository, from model to folder: export, compare, describe, take its place."""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch
from tqdm import tqdm

from export.deploy import DeployClassifier
from export.graph import INPUT, LOGITS, PROBABILITIES, to_graph
from export.parity import Floats, Pictures, compare, torch_logits
from export.pictures import pictures_for
from export.triton_config import fits, triton_config
from skipvit import artifacts, provenance, publishing
from skipvit.complexity import count_macs, count_params
from skipvit.manifest import Manifest, Parity, Tensor, check_name
from skipvit.origin import Origin, check_labels

Precision = Literal["fp32", "fp16"]
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
_FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Plan:
    """What to write where; the fields are the program's options."""

    root: Path
    name: str
    version: int | None
    precisions: tuple[Precision, ...]
    opset: int
    images: Path | None
    labels: tuple[str, ...]
    verify: bool


def export_entry(origin: Origin, plan: Plan) -> tuple[Path, list[Parity]]:
    """Writes and verifies one version; returns its folder and the parity figures.

    Raises:
        ArtifactError: the version exists, or contradicts what all versions of the model share.
        ParityError: a file strays from the model; nothing is left behind.
        OriginError: the labels cannot be used, or the pictures to compare on cannot be read.
        ValueError: name, version or opset cannot be used.
    """
    check_name(plan.name)
    version = plan.version or publishing.next_version(plan.root, plan.name)
    labels_text = _labels_text(origin, plan)
    _check_shared_files(origin, plan, labels_text)
    pictures = pictures_for(origin, plan.images)
    parities: list[Parity] = []
    with (
        publishing.new_version(plan.root, plan.name, version) as staging,
        tqdm(total=2 * len(plan.precisions), desc=plan.name, unit="step", leave=False) as bar,
    ):
        reference = _reference(origin, plan, pictures) if plan.verify else None
        for precision in plan.precisions:
            bar.set_postfix_str(f"exporting {precision}")
            path = staging / _FILES[precision]
            _write_graph(origin, precision, plan.opset, path)
            bar.update()
            if reference is not None:
                bar.set_postfix_str(f"comparing {precision}")
                parities.append(compare(reference, path, precision, pictures))
            bar.update()
        manifest = _manifest(origin, plan, version, parities, staging, labels_text)
        _write_shared_files(origin, plan, labels_text)
        publishing.write_atomically(staging / artifacts.MANIFEST, manifest.to_json())
    return plan.root / plan.name / str(version), parities


def _labels_text(origin: Origin, plan: Plan) -> str:
    classes = int(getattr(origin.model, "num_classes", len(plan.labels)))
    if classes < 1:
        raise ValueError(
            f"{origin.architecture} has no classifier head, only features; "
            "give --model-arg num_classes=N, and --weights of a model that has one"
        )
    check_labels(plan.labels, classes)
    return "".join(f"{label}\n" for label in plan.labels)


def _check_shared_files(origin: Origin, plan: Plan, labels_text: str) -> None:
    """Versions share labels.txt and config.pbtxt; a version that these do not describe needs a name of its own."""
    folder = plan.root / plan.name
    labels, config = folder / artifacts.LABELS, folder / artifacts.TRITON_CONFIG
    if labels.exists() and labels.read_text(encoding="utf-8") != labels_text:
        raise artifacts.ArtifactError(
            f"{labels} has other labels, and all versions of a model share them; give another --name"
        )
    file = _FILES[plan.precisions[0]]
    if config.exists() and not fits(config.read_text(encoding="utf-8"), file, *_tensors(origin, plan)):
        raise artifacts.ArtifactError(
            f"{config} describes another file or other shapes than this export's, and all versions share it; "
            "give another --name, or remove that file to have it written anew"
        )


def _write_graph(origin: Origin, precision: Precision, opset: int, path: Path) -> None:
    deployable = DeployClassifier(origin.model, origin.preprocessing, _DTYPES[precision])
    graph = to_graph(deployable, origin.preprocessing.height, origin.preprocessing.width, opset)
    onnx.save(graph, path)


def _reference(origin: Origin, plan: Plan, pictures: Pictures) -> Floats:
    reference = torch_logits(origin.model, origin.preprocessing, pictures.images)
    if reference.ndim != 2 or reference.shape[1] != len(plan.labels):
        raise ValueError(
            f"{origin.architecture} gives an output of shape {reference.shape} for {len(plan.labels)} labels; "
            "only classifiers that give (B, num_classes) can be exported"
        )
    return reference


def _tensors(origin: Origin, plan: Plan) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The graph's inputs and outputs."""
    pre, classes = origin.preprocessing, len(plan.labels)
    images = Tensor(name=INPUT, dtype="uint8", shape=("batch", pre.height, pre.width, 3))
    outputs = [Tensor(name=name, dtype="float32", shape=("batch", classes)) for name in (LOGITS, PROBABILITIES)]
    return (images,), tuple(outputs)


def _manifest(
    origin: Origin, plan: Plan, version: int, parities: Sequence[Parity], staging: Path, labels_text: str
) -> Manifest:
    pre = origin.preprocessing
    inputs, outputs = _tensors(origin, plan)
    return Manifest(
        name=plan.name,
        version=version,
        task="classification",
        architecture=origin.architecture,
        inputs=inputs,
        outputs=outputs,
        preprocessing=pre,
        weights_from=origin.weights_from,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=provenance.commit(),
        versions=provenance.versions_of(_PACKAGES),
        models={p: _FILES[p] for p in plan.precisions},
        files={
            **publishing.hashes_of(staging),
            artifacts.LABELS: hashlib.sha256(labels_text.encode()).hexdigest(),
        },
        parity=tuple(parities),
        evaluation=origin.evaluation,
        macs=count_macs(origin.model, torch.zeros(1, 3, pre.height, pre.width)),
        params=count_params(origin.model),
    )


def _write_shared_files(origin: Origin, plan: Plan, labels_text: str) -> None:
    """labels.txt and config.pbtxt; the latter only once, as operators edit it."""
    folder = plan.root / plan.name
    publishing.write_atomically(folder / artifacts.LABELS, labels_text)
    config = folder / artifacts.TRITON_CONFIG
    if not config.exists():
        file = _FILES[plan.precisions[0]]
        publishing.write_atomically(config, triton_config(plan.name, file, *_tensors(origin, plan)))
