"""Engines of TensorRT behind the server's protocol: their tensors are the manifest's, and a lost GPU ends the model."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.batcher import Batcher
from serve.engines.engine import EngineLost, RowsEngine
from serve.engines.tensorrt_engine import TensorrtEngine
from serve.tasks import Contract
from serve.ticket import Ticket
from skipvit.artifacts import ArtifactCorrupt
from tests.serve.fake_machine import Machine, brightness_engine
from tests.serve.servers import wait_until
from tests.trt_plugins.fake_tensorrt import DataType, Model, denoiser
from trt_plugins.session import EngineError, open_session

CLASSIFIER = Contract((8, 8, 3), "probabilities", "float32")
TILES = Contract((16, 16, 3), "denoised", "uint8", (16, 16, 3))


def opened(
    machine: Machine, tmp_path: Path, model: Model, contract: Contract, name: str = "image", **size: Any
) -> TensorrtEngine:
    path = tmp_path / "m" / "1" / "model.plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"plan")
    machine.models[b"plan"] = model
    session = machine.open_session(path, machine.installed["tensorrt"], memory="auto", rows=size, max_batch=8)
    return TensorrtEngine(session, path, name, contract)


def test_rows_stacked_or_not_give_the_same(machine: Machine, tmp_path: Path) -> None:
    engine = opened(machine, tmp_path, brightness_engine(), CLASSIFIER)
    assert engine.classes == 10
    assert isinstance(engine, RowsEngine)
    batch = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    rows = engine.run(batch)
    assert rows.shape == (5, 10)
    np.testing.assert_array_equal(rows.argmax(axis=1), np.rint(batch.reshape(5, -1).mean(axis=1) * 9 / 255))
    np.testing.assert_array_equal(engine.run_rows(list(batch)), rows)
    engine.close()
    assert machine.device.leftovers == (0, 0, 0)


def test_a_denoisers_tile_is_the_manifests(machine: Machine, tmp_path: Path) -> None:
    engine = opened(machine, tmp_path, denoiser(), TILES, "pixels", pixels=(16, 16, 3))
    tiles = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(engine.run(tiles), 255 - tiles)
    assert engine.classes == 0
    engine.close()


def other_output(kind: DataType) -> Model:
    model = brightness_engine()
    model.outputs["probabilities"] = kind, model.outputs["probabilities"][1]
    return model


WRONG: dict[str, tuple[Model, Contract, str, str]] = {
    "input's name": (brightness_engine(), CLASSIFIER, "pixels", r"takes 'image' uint8 \[8, 8, 3\], its manifest says"),
    "input's size": (brightness_engine(16), CLASSIFIER, "image", r"takes 'image' uint8 \[16, 16, 3\]"),
    "output's dtype": (other_output(DataType.HALF), CLASSIFIER, "image", r"gives 'probabilities' float16 \[10\]"),
    "output's name": (brightness_engine(), Contract((8, 8, 3), "y", "float32"), "image", r"needed is 'y' float32"),
    "output's shape": (
        denoiser(), Contract((16, 16, 3), "denoised", "uint8", (8, 8, 3)), "pixels", r"needed is 'denoised' uint8 \[8,",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_an_engine_of_another_graph_is_refused(machine: Machine, tmp_path: Path, what: str) -> None:
    model, contract, name, said = WRONG[what]
    with pytest.raises(ArtifactCorrupt, match=said) as caught:
        opened(machine, tmp_path, model, contract, name)
    assert f"rebuild it: skipvit-to-trt --force {tmp_path / 'm' / '1'}" in str(caught.value)
    assert machine.device.leftovers == (0, 0, 0)


def test_a_batch_that_fails_is_an_ordinary_error(machine: Machine, tmp_path: Path) -> None:
    engine = opened(machine, tmp_path, brightness_engine(), CLASSIFIER)
    compute = machine.models[b"plan"].compute
    machine.models[b"plan"].compute = lambda inputs: compute({})
    with pytest.raises(EngineError):
        engine.run(np.zeros((1, 8, 8, 3), np.uint8))
    machine.models[b"plan"].compute = compute
    assert engine.run(np.zeros((1, 8, 8, 3), np.uint8)).argmax() == 0
    engine.close()


def test_a_lost_gpu_takes_the_model_out_of_service(machine: Machine, tmp_path: Path) -> None:
    """Whoever waits is told so, and the batcher is dead, which /livez reports."""
    engine = opened(machine, tmp_path, brightness_engine(), CLASSIFIER)
    batcher = Batcher(engine, max_batch=8, max_wait_s=0.0, threads=2)
    batcher.start(lambda finish: finish())
    machine.device.lost = True
    done: list[Ticket] = []
    ticket = Ticket(done.append)
    ticket.pixels = np.zeros((8, 8, 3), np.uint8)
    batcher.expect()
    batcher.put(ticket)
    wait_until(lambda: len(done) == 1)
    assert "out of service" in str(ticket.error)
    assert not batcher.alive
    with pytest.raises(EngineLost, match="restart"):
        engine.run(np.zeros((1, 8, 8, 3), np.uint8))
    batcher.close()
    engine.close()


def test_the_stand_in_takes_what_the_real_one_takes() -> None:
    assert list(inspect.signature(open_session).parameters) == list(
        inspect.signature(Machine().open_session).parameters
    )
