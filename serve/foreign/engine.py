"""Runs a graph that is not ours: whole requests at a time, those of one shape side by side in one run."""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from serve.batcher import Batcher
from serve.foreign.config import ForeignConfig
from serve.foreign.graph import Signature, signature_of
from serve.ticket import Ticket

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


class Stopped(Exception):
    """Nobody waits for a run any more, so it was not finished."""


@dataclass(eq=False, slots=True)
class TensorRequest:
    """The inputs of one request, as the graph takes them, on their way through a batcher in a ticket's ``pixels``.

    ``rows`` is the length of the batch axis, 0 where there is none. ``size`` was the number of rows of the run that
    it shared.
    """

    inputs: dict[str, Array]
    rows: int
    size: int = 0
    stopped: bool = False
    run: "_Run | None" = field(default=None, repr=False)

    def stop(self) -> None:
        """Says that nobody waits any more. A run that goes on for such requests only is broken off."""
        self.stopped = True
        if self.run is not None:
            self.run.stop_if_unwanted()

    @property
    def form(self) -> tuple[Any, ...]:
        """What two requests must have in common to share a run."""
        return tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(self.inputs.items()))


class _Run:
    """One run of the session, and the requests that wait for it."""

    def __init__(self, requests: Sequence[TensorRequest]) -> None:
        self.options = ort.RunOptions()
        self._requests = requests
        for request in requests:
            request.run = self
        self.stop_if_unwanted()  # of which some may have been stopped before they knew of it

    def stop_if_unwanted(self) -> None:
        if all(request.stopped for request in self._requests):
            self.options.terminate = True


class ForeignEngine:
    """ONNX Runtime on the CPU with one thread per caller, and what the graph takes and gives."""

    def __init__(self, path: Path, config: ForeignConfig) -> None:
        """Opens the graph.

        Raises:
            GraphMismatch: it does not fit its configuration.
            Exception: ONNX Runtime cannot load it; its error classes have no public base.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # it keeps memory for every shape that came
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.signature: Signature = signature_of(self._session, config)
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._lock = threading.Lock()

    def run_all(self, requests: Sequence[TensorRequest]) -> list[list[Array]]:
        """The outputs of each request, in the signature's order. Raises whatever the graph fails with."""
        answers: dict[int, list[Array]] = {}
        for group in self._groups(requests):
            outputs = self._run(group)
            at = 0
            for request in group:
                request.size = sum(one.rows for one in group)
                answers[id(request)] = [array[at : at + request.rows] if request.rows else array for array in outputs]
                at += request.rows
        return [answers[id(request)] for request in requests]

    def _groups(self, requests: Sequence[TensorRequest]) -> Iterable[list[TensorRequest]]:
        """Requests of one form, in runs of no more rows than the graph may have."""
        by_form: dict[Any, list[TensorRequest]] = {}
        most = self.signature.max_rows
        for request in requests:
            key = request.form if request.rows else id(request)
            group = by_form.setdefault(key, [])
            if group and sum(one.rows for one in group) + request.rows > most:
                yield by_form.pop(key)
                group = by_form.setdefault(key, [])
            group.append(request)
        yield from by_form.values()

    def _run(self, group: Sequence[TensorRequest]) -> list[Array]:
        run = _Run(group)
        first = group[0].inputs
        if len(group) == 1:
            feed = first
        else:
            feed = {name: np.concatenate([request.inputs[name] for request in group]) for name in first}
        try:
            outputs: list[Array] = self._session.run(self._outputs, feed, run.options)
        except Exception:  # a run that was broken off fails in no way of its own
            if run.options.terminate:
                raise Stopped("nobody waits for this run any more") from None
            raise
        rows = sum(request.rows for request in group)
        for name, array in zip(self._outputs, outputs, strict=True):
            if rows and (not array.ndim or len(array) != rows):
                raise RuntimeError(f"output {name!r} is {list(array.shape)} for a batch of {rows} rows")
        return outputs

    def run(self, batch: Any) -> Any:
        """No request comes as pixels here."""
        raise NotImplementedError("a graph of unknown inputs runs whole requests")

    def close(self) -> None:
        del self._session


class TensorBatcher(Batcher):
    """The batcher of all models, for tickets that carry whole requests."""

    def _rows(self, batch: list[Ticket], engine: Any) -> Any:
        return engine.run_all([ticket.pixels for ticket in batch])
