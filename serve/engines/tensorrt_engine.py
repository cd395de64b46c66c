"""Engines of TensorRT and TensorRT-RTX, behind the same protocol as ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

from serve.engines.engine import EngineLost, Rows
from serve.tasks import Contract, contract_of
from skipvit.artifacts import ArtifactCorrupt, Entry
from skipvit.manifest import Engine as EngineRecord
from skipvit.transforms import Pixels
from trt_plugins.device_memory import Memory
from trt_plugins.engine_plan import rebuild_command
from trt_plugins.flavors import Tensorrt
from trt_plugins.session import EngineError, Session, open_session


class TensorrtEngine:
    """A session of an engine whose tensors are what the manifest promises. Two callers run at a time."""

    def __init__(self, session: Session, path: Path, input_name: str, contract: Contract) -> None:
        """Takes the session over.

        Raises:
            ArtifactCorrupt: the engine is of another graph.
        """
        self._session = session
        self._input = input_name
        self._output = contract.output
        self.buckets = session.buckets
        self.max_batch = session.max_batch
        self.device = session.gpu
        try:
            self.classes = self._check(path, contract)
        except ArtifactCorrupt:
            session.close()
            raise

    @classmethod
    def from_entry(
        cls, entry: Entry, record: EngineRecord, tensorrt: Tensorrt, memory: Memory, max_batch: int
    ) -> "TensorrtEngine":
        """Opens one of the entry's engines; its hash was verified when the entry was read.

        Raises:
            EngineError: it cannot run here.
            ArtifactCorrupt: see the class.
        """
        path, contract, name = entry.folder / record.file, contract_of(entry), entry.manifest.inputs[0].name
        session = open_session(path, tensorrt, memory=memory, rows={name: contract.row}, max_batch=max_batch)
        return cls(session, path, name, contract)

    def _check(self, path: Path, contract: Contract) -> int:
        """Compares the engine's tensors with the contract, and returns the number of classes, 0 if none."""
        inputs = [(tensor.name, tensor.dtype.name, tensor.row) for tensor in self._session.inputs]
        if inputs != [(self._input, "uint8", contract.row)]:
            raise ArtifactCorrupt(
                f"{path} takes {_shown(inputs)}, its manifest says {self._input!r} uint8 {list(contract.row)}; "
                f"rebuild it: {rebuild_command(path)}"
            )
        outputs = {tensor.name: tensor for tensor in self._session.outputs}
        found = outputs.get(contract.output)
        fits = found is not None and (found.row == contract.result if contract.result else len(found.row) == 1)
        if found is None or not fits or found.dtype != contract.dtype:
            every = [(tensor.name, tensor.dtype.name, tensor.row) for tensor in outputs.values()]
            raise ArtifactCorrupt(
                f"{path} gives {_shown(every)}, needed is {contract.output!r} {contract.dtype} "
                f"{list(contract.result or ('classes',))}; rebuild it: {rebuild_command(path)}"
            )
        return 0 if contract.result else found.row[0]

    def run(self, batch: Pixels) -> Rows:
        return self.run_rows(batch)

    def run_rows(self, rows: Pixels | Sequence[Pixels]) -> Rows:
        """Like ``run``, of rows that are not joined yet: each is copied once, to where the GPU fetches it."""
        try:
            return self._session.run({self._input: rows})[self._output]
        except EngineError as error:
            if self._session.lost:
                raise EngineLost(str(error)) from error
            raise

    def close(self) -> None:
        self._session.close()


def _shown(tensors: list[tuple[str, str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name!r} {dtype} {list(row)}" for name, dtype, row in tensors)
