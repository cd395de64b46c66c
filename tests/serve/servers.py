"""A tiny classifier of brightness, model repositories that hold it, and servers around them."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from serve.app import create_app
from serve.engines.engine import OnnxCpuEngine, Rows
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import LABELS, MANIFEST, read_entry, sha256_of
from skipvit.manifest import Manifest, Tensor
from skipvit.publishing import hashes_of, new_version, write_atomically
from skipvit.transforms import Pixels, Preprocessing

CLASSES = 10
Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]


def brightness_model(
    side: int = 8,
    classes: int = CLASSES,
    output: str = "probabilities",
    *,
    darkest_first: bool = True,
    scale: float = -0.01,
) -> onnx.ModelProto:
    """An ONNX classifier whose class k is a mean brightness of k / 9: an answer tells which picture it is for.

    Its logits are ``scale * (brightness - centre)^2``, with brightness and centres from 0 to 255.
    """
    ends = (0.0, 255.0) if darkest_first else (255.0, 0.0)
    centres = np.linspace(*ends, classes, dtype=np.float32)[None, :]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Sub", ["column", "centres"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["square"]),
        helper.make_node("Mul", ["square", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=1),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "last": np.array([1], np.int64),
        "centres": centres,
        "scale": np.array(scale, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", side, side, 3])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_model(root: Path, name: str = "shades", version: int = 1, side: int = 8, **changes: Any) -> Path:
    """Writes a version of the tiny model into a repository; ``changes`` replace fields of its manifest."""
    (root / name).mkdir(parents=True, exist_ok=True)
    labels = root / name / LABELS
    write_atomically(labels, "".join(f"{label}\n" for label in changes.pop("labels", range(CLASSES))))
    with new_version(root, name, version) as folder:
        onnx.save(changes.pop("graph", None) or brightness_model(side), folder / "model.onnx")
        fields: dict[str, Any] = {
            "name": name,
            "version": version,
            "task": "classification",
            "architecture": "brightness",
            "inputs": (Tensor(name="image", dtype="uint8", shape=("batch", side, side, 3)),),
            "outputs": (Tensor(name="probabilities", dtype="float32", shape=("batch", CLASSES)),),
            "preprocessing": Preprocessing(height=side, width=side, resize="squash", interpolation="box"),
            "weights_from": "a test",
            "created": "2026-01-01T00:00:00Z",
            "commit": "unknown",
            "versions": {},
            "models": {"fp32": "model.onnx"},
            "files": {**hashes_of(folder), LABELS: sha256_of(labels)},
            "parity": (),
            "macs": 192,
            "params": 0,
        }
        write_atomically(folder / MANIFEST, Manifest(**{**fields, **changes}).to_json())
    return root / name / str(version)


def png(level: int | tuple[int, ...] = 255, size: tuple[int, int] = (16, 16), mode: str = "L", **options: Any) -> bytes:
    """A flat picture as a file; the tiny model answers round(9 * level / 255)."""
    return encoded(Image.new(mode, size, level), **options)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@asynccontextmanager
async def in_process(repository: Repository, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client wired straight to the app, without a socket, with its lifespan run and its models warm."""
    app = create_app(settings, repository)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            while repository.state == "warming":
                await asyncio.sleep(0.005)
            yield client


def run(root: Path, scenario: Scenario, settings: Settings | None = None) -> None:
    """Plays a scenario with a client of the repository in ``root``, in process."""
    settings = settings or Settings(decode_threads=2, tile_threads=2)

    async def main() -> None:
        async with in_process(Repository.open(root, settings), settings) as client:
            await scenario(client)

    asyncio.run(main())


@contextmanager
def over_socket(repository: Repository, settings: Settings, host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of a real server on a free port, in a thread."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings, repository), host=host, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started and repository.state != "warming")
        yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class HeldEngine:
    """The tiny model, held back until its gate opens, so that a test can fill the queue."""

    def __init__(self, engine: OnnxCpuEngine) -> None:
        self.engine = engine
        self.gate = threading.Event()
        self.gate.set()
        self.entered = self.seen = 0

    def run(self, batch: Pixels) -> Rows:
        self.entered += len(batch)
        assert self.gate.wait(60)
        self.seen += len(batch)
        return self.engine.run(batch)

    def close(self) -> None:
        self.engine.close()


def held_repository(root: Path, settings: Settings) -> tuple[Repository, HeldEngine]:
    entry = read_entry(root, "shades")
    engine = HeldEngine(OnnxCpuEngine.from_entry(entry))
    return Repository([ServedModel(entry, engine, settings, CLASSES)]), engine


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Polls ``condition``; fails the test when it stays false."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


async def until(condition: Callable[[], bool]) -> None:
    """Polls ``condition`` beside whatever else the loop does; fails the test when it stays false."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)
