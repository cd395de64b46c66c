"""One entry of the model repository, from model to folder: export, compare, describe, take its place."""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from tqdm import tqdm

from export.job import Job, Precision
from export.triton_config import fits, triton_config
from skipvit import artifacts, provenance, publishing
from skipvit.complexity import count_macs, count_params
from skipvit.manifest import Manifest, Parity, check_name

_FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Plan:
    """What to write where; the fields are the program's options."""

    root: Path
    name: str
    version: int | None
    precisions: tuple[Precision, ...]
    opset: int
    verify: bool


def export_entry(job: Job, plan: Plan) -> tuple[Path, list[Parity]]:
    """Writes and verifies one version; returns its folder and the parity figures.

    Raises:
        ArtifactError: the version exists, or contradicts what all versions of the model share.
        ParityError: a file strays from the model; nothing is left behind.
        ValueError: name, version or opset cannot be used.
    """
    check_name(plan.name)
    version = plan.version or publishing.next_version(plan.root, plan.name)
    _check_shared_files(job, plan)
    parities: list[Parity] = []
    with (
        publishing.new_version(plan.root, plan.name, version) as staging,
        tqdm(total=2 * len(plan.precisions), desc=plan.name, unit="step", leave=False) as bar,
    ):
        for precision in plan.precisions:
            bar.set_postfix_str(f"exporting {precision}")
            path = staging / _FILES[precision]
            onnx.save(job.graph(precision, plan.opset), path)
            bar.update()
            if plan.verify:
                bar.set_postfix_str(f"comparing {precision}")
                parities.append(job.compare(path, precision))
            bar.update()
        samples = job.write_samples(staging)
        manifest = _manifest(job, plan, version, parities, samples, staging)
        _write_shared_files(job, plan)
        publishing.write_atomically(staging / artifacts.MANIFEST, manifest.to_json())
    return plan.root / plan.name / str(version), parities


def _check_shared_files(job: Job, plan: Plan) -> None:
    """Versions share labels.txt and config.pbtxt; a version that these do not describe needs a name of its own."""
    folder = plan.root / plan.name
    labels, config = folder / artifacts.LABELS, folder / artifacts.TRITON_CONFIG
    if labels.exists() and labels.read_text(encoding="utf-8") != job.labels_text:
        raise artifacts.ArtifactError(
            f"{labels} has other labels, and all versions of a model share them; give another --name"
        )
    file = _FILES[plan.precisions[0]]
    if config.exists() and not fits(config.read_text(encoding="utf-8"), file, job):
        raise artifacts.ArtifactError(
            f"{config} describes another file or other shapes than this export's, and all versions share it; "
            "give another --name, or remove that file to have it written anew"
        )


def _manifest(
    job: Job, plan: Plan, version: int, parities: Sequence[Parity], samples: tuple[str, ...], staging: Path
) -> Manifest:
    files = publishing.hashes_of(staging)
    if job.labels_text is not None:
        files[artifacts.LABELS] = hashlib.sha256(job.labels_text.encode()).hexdigest()
    return Manifest(
        name=plan.name,
        version=version,
        task=job.task,
        architecture=job.architecture,
        inputs=job.inputs,
        outputs=job.outputs,
        preprocessing=job.preprocessing,
        tiling=job.tiling,
        samples=samples,
        weights_from=job.weights_from,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=provenance.commit(),
        versions=provenance.versions_of(_PACKAGES),
        models={p: _FILES[p] for p in plan.precisions},
        files=files,
        parity=tuple(parities),
        evaluation=job.evaluation,
        macs=count_macs(job.model, job.example()),
        params=count_params(job.model),
    )


def _write_shared_files(job: Job, plan: Plan) -> None:
    """labels.txt and config.pbtxt; the latter only once, as operators edit it."""
    folder = plan.root / plan.name
    if job.labels_text is not None:
        publishing.write_atomically(folder / artifacts.LABELS, job.labels_text)
    config = folder / artifacts.TRITON_CONFIG
    if not config.exists():
        publishing.write_atomically(config, triton_config(plan.name, _FILES[plan.precisions[0]], job))
