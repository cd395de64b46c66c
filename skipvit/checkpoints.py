"""A checkpoint: what training writes and export reads.

    <folder>/model.safetensors   weights only, the EMA's where training kept one
    <folder>/checkpoint.json     architecture, labels, preprocessing, resolved recipe, metrics, versions
    <folder>/samples.npz         optional: some evaluation pictures, for export to compare engines on; with their labels
                                 those of a classifier, with their names the clean ones of a denoiser

Weights never travel as pickles, so opening a stranger's checkpoint runs none of their code.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from skipvit.manifest import Evaluation, Task
from skipvit.models import create_model
from skipvit.publishing import write_atomically
from skipvit.transforms import Pixels, Preprocessing
from skipvit.weights import MismatchError, WeightsError, load_weights

Classes = npt.NDArray[np.int64]

SCHEMA_VERSION = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
SAMPLES = "samples.npz"
_MAX_DESCRIPTION = 16 << 20  # bytes; tens of thousands of labels fit
_MAX_SAMPLES = 1 << 30  # bytes when decompressed, of which a small file may hold a thousand times as many
_MOST_BLOCKS, _LARGEST = 1000, 1 << 20  # of a model that a description asks for: its blocks, and any other number
CONVERTED_FROM = (
    "converted_from"  # in the recipe of a checkpoint that was not trained but converted: from what, in words
)


class CleanSamples(NamedTuple):
    """A denoiser's evaluation pictures without noise, and their names.

    (n, H, W, 3) uint8, or clips of a video (n, frames, H, W, 3).
    """

    images: Pixels
    names: tuple[str, ...]


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file and says what to do."""


class Checkpoint(BaseModel):
    """The JSON beside the weights. A classifier has labels and preprocessing, a denoiser neither."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    task: Task = "classification"
    architecture: str
    # keyword arguments of the architecture, as given to create_model: num_classes, img_size, skip ...
    model_args: dict[str, Any] = Field(default_factory=dict)
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    recipe: dict[str, Any]
    evaluation: Evaluation | None = None
    epochs: int = Field(ge=0)
    versions: dict[str, str]
    commit: str

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        if self.task == "classification" and (self.preprocessing is None or not self.labels):
            raise ValueError("a classifier needs labels and preprocessing")
        return self

    @property
    def classifier_preprocessing(self) -> Preprocessing:
        """How a classifier sees a picture.

        Raises:
            CheckpointError: this is no classifier.
        """
        if self.preprocessing is None or self.task != "classification":
            raise CheckpointError(f"{self.architecture} is a model for {self.task}; give a classifier's checkpoint")
        return self.preprocessing


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    checkpoint: Checkpoint,
    samples: tuple[Pixels, Classes] | CleanSamples | None = None,
) -> None:
    """Writes a checkpoint; each file appears complete or not at all, the description last.

    Args:
        samples: evaluation pictures for export's comparison: (B, H, W, 3) uint8 and their class indices (B,), or a
            denoiser's.

    Raises:
        OSError: a file cannot be written, for want of room or of leave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)  # until it is back, the folder is not a checkpoint
    with _complete(folder / WEIGHTS) as staging:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, staging)
    if samples is not None:
        with _complete(folder / SAMPLES) as staging, staging.open("wb") as file:
            of = {"names": np.array(samples.names)} if isinstance(samples, CleanSamples) else {"labels": samples[1]}
            np.savez_compressed(file, images=samples[0], **of)
    text = json.dumps(checkpoint.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_atomically(folder / DESCRIPTION, text + "\n")


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` to write under; the file takes its place if the block succeeds."""
    staging = path.with_name(f".{path.name}")
    try:
        yield staging
        staging.replace(path)
    except BaseException as error:
        staging.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):  # how safetensors says that the disk is full
            raise OSError(f"{path.name} cannot be written: {error}") from None
        raise


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads the description of a checkpoint.

    Raises:
        CheckpointError: it is missing, malformed, or from a newer skipvit.
    """
    path = folder / DESCRIPTION
    try:
        if path.stat().st_size > _MAX_DESCRIPTION:
            raise CheckpointError(f"{path} has more than {_MAX_DESCRIPTION >> 20} MiB; restore the file")
        raw = path.read_bytes()
    except OSError:
        raise CheckpointError(
            f"{folder} is not a checkpoint: no readable {DESCRIPTION}; train one with skipvit-train"
        ) from None
    try:
        schema = json.loads(raw).get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON object ({error}); train again or restore the file") from None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise CheckpointError(f"{path} has schema {schema}, this skipvit reads up to {SCHEMA_VERSION}; upgrade skipvit")
    try:
        return Checkpoint.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: {where}: {first['msg']}; train again or restore the file") from None


def load_model(folder: Path) -> tuple[torch.nn.Module, Checkpoint]:
    """Builds the model of a checkpoint, in eval mode on the CPU, with its weights and no others.

    Raises:
        CheckpointError: the description or the weights cannot be used.
    """
    checkpoint = read_checkpoint(folder)
    path = folder / WEIGHTS
    # On the meta device a model takes no memory: its weights' shapes are compared with those that are there before any
    # is allocated, however large a model the description asks for.
    with torch.device("meta"):
        plan = _built(folder, checkpoint)
    try:
        state = load_file(path)
        load_weights(plan, {name: tensor.to("meta") for name, tensor in state.items()}, str(path))
        model = _built(folder, checkpoint)
        load_weights(model, state, str(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; copy it back or train again") from None
    except MismatchError as error:
        raise CheckpointError(f"{error}; {DESCRIPTION} beside it describes another, copy both from one run") from None
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again or train again") from None
    return model.eval(), checkpoint


def _built(folder: Path, checkpoint: Checkpoint) -> torch.nn.Module:
    """The model that a description asks for, its weights not set."""
    where = folder / DESCRIPTION
    if "pretrained" in checkpoint.model_args:
        raise CheckpointError(f"{where} asks for weights from elsewhere; remove 'pretrained' from model_args")
    for key, value in checkpoint.model_args.items():
        limit = _MOST_BLOCKS if "depth" in key or key == "layers" else _LARGEST
        if _largest(value) > limit:
            raise CheckpointError(
                f"{where}: {key} is {str(value)[:40]}, more than {limit}; no model of ours is so large"
            )
    try:
        return create_model(checkpoint.architecture, **checkpoint.model_args)
    except Exception as error:  # whatever constructors of timm's raise at arguments that a stranger wrote
        why = str(error)[:500] or type(error).__name__
        raise CheckpointError(f"{where} describes a model that cannot be built: {why}") from None


def _largest(value: Any) -> float:
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int | float) else 0


def read_samples(folder: Path) -> tuple[Pixels, Classes] | None:
    """Evaluation pictures (B, H, W, 3) uint8 and their class indices (B,), or None where the checkpoint has none.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    path = folder / SAMPLES
    if not path.exists():
        return None
    images, labels = _read_arrays(path, "labels")
    shaped = images.ndim == 4 and images.shape[3] == 3 and len(images) > 0
    if images.dtype != np.uint8 or not shaped or labels.shape != images.shape[:1]:
        raise CheckpointError(
            f"{path} holds images {images.dtype} {images.shape} and labels {labels.shape}; "
            "it needs uint8 (B, H, W, 3) and (B,) with B >= 1: remove it or train again"
        )
    return images, labels


def read_clean_samples(folder: Path) -> CleanSamples | None:
    """A denoiser's evaluation pictures, or None where the checkpoint has none.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    path = folder / SAMPLES
    if not path.exists():
        return None
    images, names = _read_arrays(path, "names")
    shaped = images.ndim in (4, 5) and images.shape[-1] == 3 and len(images) > 0
    if images.dtype != np.uint8 or not shaped or names.dtype.kind != "U" or names.shape != images.shape[:1]:
        raise CheckpointError(
            f"{path} holds images {images.dtype} {images.shape} and names {names.dtype} {names.shape}; "
            "it needs uint8 (n, H, W, 3) or (n, frames, H, W, 3) and n names: remove it or train again"
        )
    return CleanSamples(images, tuple(str(name) for name in names))


def _read_arrays(path: Path, second: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_SAMPLES:
            raise CheckpointError(f"{path} holds {size >> 20} MiB, at most {_MAX_SAMPLES >> 20} are read; remove it")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return data["images"], data[second]
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it or train again") from None
