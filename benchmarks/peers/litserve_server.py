"""Classification on LitServe: python -m benchmarks.peers.litserve_server MODELS_DIR PORT WORKERS

Its worker processes decode and run the model, a batch at a time; its front process reads forms.
"""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt

from benchmarks.peers.classifier import MAX_BATCH, Classifier
from skipvit.transforms import Pixels


class Api(litserve.LitAPI):
    """What LitServe calls, in this order, with what the requests of one batch brought."""

    def __init__(self, models: Path, **options: Any) -> None:
        super().__init__(**options)
        self._models = models

    def setup(self, device: str) -> None:
        self._classifier = Classifier(self._models)

    def decode_request(self, request: litserve.Request) -> Pixels:
        return self._classifier.decode(request["file"].file.read())

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return list(inputs)

    def predict(self, pixels: list[Pixels]) -> npt.NDArray[np.float32]:
        return self._classifier.probabilities(pixels)

    def unbatch(self, output: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: npt.NDArray[np.float32]) -> litserve.Response:
        return self._classifier.answer(output)


if __name__ == "__main__":
    # The shortest wait for more, in seconds. With none, workers ask for requests without a pause while there are none,
    # and take the front process's CPU: a third to a half fewer requests/s on two busy cores.
    api = Api(Path(sys.argv[1]), max_batch_size=MAX_BATCH, batch_timeout=0.001, api_path="/v1/classify")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(sys.argv[3]), healthcheck_path="/readyz", timeout=60
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
