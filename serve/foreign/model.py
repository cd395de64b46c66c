"""Models that are not ours: an ONNX file in Triton's layout, without a manifest, served by the tensors it takes.

    models/<name>/config.pbtxt  labels.txt
    models/<name>/<version>/model.onnx

Nobody vouches for such a file: no hash is compared, and a graph is a program. Only the Open Inference Protocol serves
it, under /v2; the routes for pictures never do.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serve.engines.engine import EngineInfo
from serve.foreign.config import MAX_CONFIG_BYTES, ForeignConfig, parse_config, parse_json_config
from serve.foreign.engine import Array, ForeignEngine, TensorBatcher, TensorRequest
from serve.foreign.graph import GraphMismatch
from serve.foreign.text_format import TextFormatError
from serve.models.served_model import ServedModel
from serve.oip.tensors import BYTES, TYPES
from serve.settings import Settings, available_cpus
from skipvit.artifacts import TRITON_CONFIG, ArtifactCorrupt, ArtifactMissing

logger = logging.getLogger(__name__)

_MAX_LABELS_BYTES = 16 << 20


class ForeignModel(ServedModel):
    """One version of a model that has no manifest. ``signature`` has the tensors that it takes and gives."""

    def __init__(self, name: str, version: int, path: Path, config: ForeignConfig, settings: Settings) -> None:
        """Opens the graph.

        Raises:
            ArtifactCorrupt: ONNX Runtime cannot load it, it contradicts its configuration, or labels are missing.
        """
        self.path = path
        self.config = config
        try:
            engine = ForeignEngine(path, config)
        except GraphMismatch as error:
            raise ArtifactCorrupt(f"{path} does not fit its {TRITON_CONFIG}: {error}") from None
        except Exception as error:  # ONNX Runtime has its own error classes, without a common public base
            reason = " ".join(str(error).split())[:300]
            raise ArtifactCorrupt(f"{path} cannot be loaded by ONNX Runtime ({reason}); replace or remove it") from None
        self.signature = engine.signature
        self._graph = engine
        own = settings.of(name)
        most = self.signature.max_rows if config.dynamic_batching else 1
        batcher = TensorBatcher(
            engine,
            max_batch=max(1, min(most, own.max_batch or most)),
            max_wait_s=0.0,
            threads=own.instances or config.instances or available_cpus(),
            name=name,
        )
        info = EngineInfo(
            kind="onnx-cpu",
            file=path.name,
            precision=None,
            device="CPU",
            why="models that are not ours run nowhere else",
        )
        self._set_up(name, version, "tensors", path.parent, info, engine, batcher)
        folder = path.parent.parent
        self._labels = {one.name: _labels(folder, one.label_filename) for one in self.signature.outputs}

    def labels_of(self, output: str) -> Sequence[str]:
        """The labels of an output's elements, empty if it has none."""
        return self._labels[output]

    def warm_up(self) -> None:
        """Runs one request of zeros, and one as large as a batch may be. A graph may well refuse them."""
        logger.warning("model %s/%s is an unverified third-party model: %s", self.name, self.version, self.path)
        if self.config.passed_over:
            logger.warning("model %s: %s passed over: %s", self.name, TRITON_CONFIG, ", ".join(self.config.passed_over))
        started = time.perf_counter()
        for rows in sorted({min(1, self.signature.max_rows), self.signature.max_rows}):
            try:
                self._graph.run_all([self._zeros(rows)])
            except Exception as error:  # ONNX Runtime's own classes
                reason = " ".join(str(error).split())[:300]
                logger.warning("model %s does not run on zeros, which may be right: %s", self.name, reason)
                return
        logger.info("model %s/%s is warm: %.2f ms", self.name, self.version, (time.perf_counter() - started) * 1000)

    def _zeros(self, rows: int) -> TensorRequest:
        inputs: dict[str, Array] = {}
        for tensor in self.signature.inputs:
            dims = tensor.dims if tensor.reshaped is None else tensor.reshaped
            shape = tuple(1 if size == -1 else size for size in dims)
            shape = (rows, *shape) if rows else shape
            filled = (
                np.full(shape, "0", object) if tensor.datatype == BYTES else np.zeros(shape, TYPES[tensor.datatype])
            )
            inputs[tensor.name] = filled
        return TensorRequest(inputs, rows)


def open_foreign(root: Path, name: str, version: int, settings: Settings, override: str | None = None) -> ForeignModel:
    """Opens a version of a model that has no manifest; it is neither started nor warm.

    Args:
        override: a configuration as JSON, in place of the one that lies there.

    Raises:
        ArtifactError: its configuration cannot be read, or does not fit the graph; the message names the file.
    """
    described = root / name / TRITON_CONFIG
    try:
        if override is not None:
            config = parse_json_config(override, name)
        else:
            config = parse_config(_read(described, MAX_CONFIG_BYTES), name) if described.exists() else ForeignConfig()
    except TextFormatError as error:
        raise ArtifactCorrupt(f"{described}: {error}; correct it, or remove the model") from None
    path = root / name / str(version) / config.file
    if path.is_dir():  # Triton's way with weights that lie in files of their own
        path = path / config.file
    if not path.is_file():
        raise ArtifactMissing(f"{path} is not there; put the model there, or name it in {TRITON_CONFIG}")
    return ForeignModel(name, version, path, config, settings)


def _labels(folder: Path, file: str) -> tuple[str, ...]:
    if not file:
        return ()
    path = folder / file
    try:
        lines = _read(path, _MAX_LABELS_BYTES).decode().replace("\r\n", "\n").removesuffix("\n")
        return tuple(lines.split("\n")) if lines else ()  # not at U+2028 and its like, which may be in a label
    except UnicodeDecodeError as error:
        raise ArtifactCorrupt(f"{path} is not UTF-8 ({error}); write one label a line in UTF-8") from None


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():  # a pipe or a device would be waited for
        raise ArtifactMissing(f"{path} is not there, or is no file; put it there, or take it out of {TRITON_CONFIG}")
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ArtifactCorrupt(f"{path} cannot be read: {error.strerror}; check who may read it") from None
    if len(raw) > limit:
        raise ArtifactCorrupt(f"{path} is over {limit} bytes; make it smaller")
    return raw
