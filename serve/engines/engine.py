"""Engines: whatever turns a batch of pixels into one result per row, behind one protocol."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict

from serve.tasks import Contract, contract_of
from skipvit.artifacts import ArtifactCorrupt, Entry
from skipvit.manifest import Precision
from skipvit.transforms import Pixels

Rows = npt.NDArray[Any]
EngineKind = Literal["onnx-cpu", "onnx-cuda", "tensorrt", "tensorrt-rtx"]
_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}


class Engine(Protocol):
    """Runs one model. ``run`` is called from several threads at once."""

    def run(self, batch: Pixels) -> Rows:
        """Returns one row for each row of a uint8 batch: float32 probabilities (B, classes), or restored pixels."""

    def close(self) -> None:
        """Frees what the engine holds; ``run`` is not called after it."""


@runtime_checkable
class RowsEngine(Protocol):
    """An engine that takes the rows of a batch one by one, and so saves the copy that would join them."""

    def run_rows(self, rows: Sequence[Pixels]) -> Rows:
        """Like ``Engine.run`` of the rows stacked."""


class EngineUnavailable(Exception):
    """The engine that was asked for cannot run here; the message says why and what to do."""


class EngineLost(BaseException):
    """An engine can never run again in this process: whoever runs it takes its model out of service."""


class EngineInfo(BaseModel):
    """Which engine runs a model.

    ``device`` is "CPU" or the GPU's name, ``why`` says why this engine was taken and not a faster one. ``precision`` is
    None where nobody said it.
    """

    model_config = ConfigDict(frozen=True)

    kind: EngineKind
    file: str
    precision: Precision | None
    device: str
    why: str


class OnnxEngine:
    """ONNX Runtime: one session, shared by all caller threads. What `open_session` gives decides what it runs on."""

    buckets: tuple[int, ...] | None = None
    """Batch sizes that it runs, where it does not run all."""
    max_batch: int | None = None

    def __init__(self, path: Path, input_name: str, contract: Contract) -> None:
        self._path = path
        self._contract = contract
        try:
            self._session = self.open_session(path, contract)
        except EngineUnavailable:
            raise
        except Exception as error:  # ONNX Runtime has its own error classes, without a common public base
            raise ArtifactCorrupt(
                f"{path} cannot be loaded by ONNX Runtime ({_reason(error)}); export it again"
            ) from None
        self._input = input_name
        self._check_input()
        self.classes = self._check_output()
        if contract.result is not None:
            self._try_row(contract.result)

    @classmethod
    def from_entry(cls, entry: Entry) -> Self:
        """Opens the first model file of a repository's entry."""
        return cls(entry.model_path(), entry.manifest.inputs[0].name, contract_of(entry))

    def open_session(self, path: Path, contract: Contract) -> ort.InferenceSession:
        """A session on what this engine is for.

        Raises:
            EngineUnavailable: that is not here.
        """
        raise NotImplementedError

    def _check_input(self) -> None:
        """Compares the graph's input with what the manifest promised."""
        inputs = {node.name: node for node in self._session.get_inputs()}
        if list(inputs) != [self._input]:
            raise ArtifactCorrupt(
                f"{self._path} has inputs {sorted(inputs)}, its manifest says {self._input!r}; export it again"
            )
        node = inputs[self._input]
        row = self._contract.row
        if node.type != "tensor(uint8)" or not _admits(node.shape[1:], row):
            raise ArtifactCorrupt(
                f"{self._path} takes {node.type} {node.shape}, its manifest says tensor(uint8) {['batch', *row]}; "
                "export it again"
            )
        if isinstance(node.shape[0], int):
            raise ArtifactCorrupt(
                f"{self._path} takes batches of {node.shape[0]} only; export it again with a dynamic batch"
            )

    def _check_output(self) -> int:
        """Compares the graph's output with what its task needs, and returns its number of classes, 0 if none."""
        outputs = {node.name: node for node in self._session.get_outputs()}
        contract = self._contract
        if contract.output not in outputs:
            raise ArtifactCorrupt(
                f"{self._path} has outputs {sorted(outputs)}, not {contract.output!r}; export it again"
            )
        node = outputs[contract.output]
        shape, wanted = node.shape, contract.result or ("classes",)
        fits = _admits(shape[1:], contract.result) if contract.result else len(shape) == 2 and isinstance(shape[1], int)
        if node.type != _TYPES[contract.dtype] or not fits:
            raise ArtifactCorrupt(
                f"{self._path}: {contract.output} is {node.type} {shape}, needed is {_TYPES[contract.dtype]} "
                f"{['batch', *wanted]}; export it again"
            )
        return 0 if contract.result else int(shape[1])

    def _try_row(self, result: tuple[int, ...]) -> None:
        """Runs one row: a graph with a dynamic height and width may still not take the manifest's size of tile."""
        row = self._contract.row
        try:
            found = self.run(np.zeros((1, *row), np.uint8)).shape
        except Exception as error:  # ONNX Runtime's own classes again
            raise ArtifactCorrupt(
                f"{self._path} cannot take {list(row)}, the tile of its manifest ({_reason(error)}); export it again "
                "with a tile that the model can take"
            ) from None
        if found != (1, *result):
            raise ArtifactCorrupt(
                f"{self._path} makes {list(found[1:])} of {list(row)}, the tile of its manifest, needed is "
                f"{list(result)}; export it again with a tile that the model can take"
            )

    def run(self, batch: Pixels) -> Rows:
        outputs: list[Rows] = self._session.run([self._contract.output], {self._input: batch})
        return outputs[0]

    def close(self) -> None:
        del self._session


class OnnxCpuEngine(OnnxEngine):
    """ONNX Runtime on the CPU, for as many caller threads as there are cores.

    One thread per call and no spinning: measured on a ViT, N callers with one thread each reach twice the throughput
    of N callers with N threads each, and spinning threads would take the cores from the decoders.
    """

    def open_session(self, path: Path, contract: Contract) -> ort.InferenceSession:
        return ort.InferenceSession(str(path), session_options(contract), providers=["CPUExecutionProvider"])


def session_options(contract: Contract) -> ort.SessionOptions:
    """Options of a session that many threads call at a time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if contract.result is not None:
        # A plan lays all buffers of a run out in one block, which the arena keeps for each that ran at the same time.
        # Measured on a Uformer with tiles of 256 pixels and two callers: 376 MB with it, 284 MB without, equally fast.
        # Without the arena, or shrinking it after each run, a tile takes 1.4 to 1.9 times as long.
        options.enable_mem_pattern = False
    return options


def _admits(shape: list[Any], row: tuple[int, ...]) -> bool:
    """Whether a graph's axes, of which some are named and take any size, fit a row."""
    return len(shape) == len(row) and all(
        not isinstance(axis, int) or axis == size for axis, size in zip(shape, row, strict=True)
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
