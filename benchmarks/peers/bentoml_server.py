"""Classification on BentoML: python -m benchmarks.peers.bentoml_server MODELS_DIR PORT WORKERS

Its worker processes read forms, decode and run the model; with one worker in adaptive batches, with more a picture at a
time in threads, as they have too few pictures each for batches to pay.
"""

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.classifier import MAX_BATCH, Classifier

_MODELS, _WORKERS = "PEERS_MODELS", "PEERS_WORKERS"  # BentoML imports this file again in each of its processes
_WORKERS_HERE = int(os.environ.get(_WORKERS, "1"))
# A latency that no request comes near: BentoML turns away whatever it expects to take longer.
_LATENCY_MS = 60_000


@bentoml.service(workers=_WORKERS_HERE, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Peer:
    """What BentoML makes once per worker."""

    def __init__(self) -> None:
        self._classifier = Classifier(Path(os.environ[_MODELS]))

    if _WORKERS_HERE == 1:

        @bentoml.api(route="/v1/classify", batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=_LATENCY_MS)
        def classify(self, file: list[Path]) -> list[dict[str, Any]]:
            pixels = [self._classifier.decode(path.read_bytes()) for path in file]
            return [self._classifier.answer(row) for row in self._classifier.probabilities(pixels)]

    else:

        @bentoml.api(route="/v1/classify")
        def classify(self, file: Path) -> dict[str, Any]:
            pixels = self._classifier.decode(file.read_bytes())
            return self._classifier.answer(self._classifier.probabilities([pixels])[0])


if __name__ == "__main__":
    os.environ[_MODELS], os.environ[_WORKERS] = sys.argv[1], sys.argv[3]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    service = "benchmarks.peers.bentoml_server:Peer"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", sys.argv[2]]
    os.execv(sys.executable, command)
