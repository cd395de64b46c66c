"""Engines: whatever turns a batch of pixels into probabilities, behind one protocol."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from skipvit.artifacts import ArtifactCorrupt, Entry
from skipvit.transforms import Pixels

Probabilities = npt.NDArray[np.float32]
OUTPUT = "probabilities"


class Engine(Protocol):
    """Runs one model. ``run`` is called from several threads at once."""

    def run(self, batch: Pixels) -> Probabilities:
        """Returns (B, classes) float32 for a (B, height, width, 3) uint8 batch."""

    def close(self) -> None:
        """Frees what the engine holds; ``run`` is not called after it."""


class OnnxCpuEngine:
    """ONNX Runtime on the CPU: one session, shared by as many caller threads as there are cores.

    One thread per call and no spinning: measured on a ViT, N callers with one thread each reach twice the throughput
    of N callers with N threads each, and spinning threads would take the cores from the decoders.
    """

    def __init__(self, path: Path, input_name: str, height: int, width: int) -> None:
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has its own error classes, without a common public base
            reason = " ".join(str(error).split())[:300]
            raise ArtifactCorrupt(f"{path} cannot be loaded by ONNX Runtime ({reason}); export it again") from None
        self._input = input_name
        self.classes = self._check_graph(height, width)

    @classmethod
    def from_entry(cls, entry: Entry) -> "OnnxCpuEngine":
        """Opens the first model file of a repository's entry."""
        size = entry.preprocessing
        return cls(entry.model_path(), entry.manifest.inputs[0].name, size.height, size.width)

    def _check_graph(self, height: int, width: int) -> int:
        """Compares the graph with what the manifest promised, and returns its number of classes."""
        inputs = {node.name: node for node in self._session.get_inputs()}
        if list(inputs) != [self._input]:
            raise ArtifactCorrupt(
                f"{self._path} has inputs {sorted(inputs)}, its manifest says {self._input!r}; export it again"
            )
        node = inputs[self._input]
        wanted = [height, width, 3]
        if node.type != "tensor(uint8)" or len(node.shape) != 4 or node.shape[1:] != wanted:
            raise ArtifactCorrupt(
                f"{self._path} takes {node.type} {node.shape}, its manifest says tensor(uint8) {['batch', *wanted]}; "
                "export it again"
            )
        if isinstance(node.shape[0], int):
            raise ArtifactCorrupt(
                f"{self._path} takes batches of {node.shape[0]} only; export it again with a dynamic batch"
            )
        return self._check_output({out.name: out for out in self._session.get_outputs()})

    def _check_output(self, outputs: dict[str, Any]) -> int:
        if OUTPUT not in outputs:
            raise ArtifactCorrupt(f"{self._path} has outputs {sorted(outputs)}, not {OUTPUT!r}; export it again")
        shape = outputs[OUTPUT].shape
        if outputs[OUTPUT].type != "tensor(float)" or len(shape) != 2 or not isinstance(shape[1], int):
            raise ArtifactCorrupt(
                f"{self._path}: {OUTPUT} is {outputs[OUTPUT].type} {shape}, needed is tensor(float) [batch, classes]; "
                "export it again"
            )
        return int(shape[1])

    def run(self, batch: Pixels) -> Probabilities:
        outputs: list[Probabilities] = self._session.run([OUTPUT], {self._input: batch})
        return outputs[0]

    def close(self) -> None:
        del self._session
