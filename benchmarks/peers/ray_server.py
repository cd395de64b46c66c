"""Classification on Ray Serve, as its manual writes it: python -m benchmarks.peers.ray_server MODELS_DIR PORT REPLICAS

The threads of a replica decode, and what is decoded when the model is free is its batch.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI, File, UploadFile
from ray import serve

from benchmarks.peers.classifier import MAX_BATCH, Classifier
from skipvit.transforms import Pixels

app = FastAPI()


@serve.deployment(max_ongoing_requests=128)
@serve.ingress(app)
class Peer:
    """What Ray makes once per replica."""

    def __init__(self, models: Path) -> None:
        self._classifier = Classifier(models)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)
    async def _probabilities(self, pixels: list[Pixels]) -> Any:
        return list(await asyncio.to_thread(self._classifier.probabilities, pixels))

    @app.get("/readyz")
    def ready(self) -> str:
        return "ready"

    @app.post("/v1/classify")
    async def classify(self, file: UploadFile = File()) -> dict[str, Any]:  # noqa: B008 - FastAPI's own way
        pixels = await asyncio.to_thread(self._classifier.decode, await file.read())
        return self._classifier.answer(await self._probabilities(pixels))


if __name__ == "__main__":
    ray.init("local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    deployment: Any = Peer  # the decorators make it one, which its type does not tell
    serve.run(deployment.options(num_replicas=int(sys.argv[3])).bind(Path(sys.argv[1])))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
