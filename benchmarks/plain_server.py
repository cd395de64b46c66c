"""The baseline of the server benchmarks: classification as a FastAPI tutorial writes it, one picture a request.

python -m benchmarks.plain_server MODELS_DIR PORT [PROCESSES]
"""

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, File, UploadFile

from benchmarks.peers.classifier import Classifier

_MODELS = "PLAIN_SERVER_MODELS"  # uvicorn imports this file again in each of its processes


def create_app() -> FastAPI:
    """The app over the first model of the repository that the environment names."""
    classifier = Classifier(Path(os.environ[_MODELS]))
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    # A plain def: FastAPI runs it in its thread pool, so requests overlap.
    @app.post("/v1/classify")
    def classify(file: UploadFile = File()) -> dict[str, Any]:  # noqa: B008 - FastAPI's own way to declare a file
        pixels = classifier.decode(file.file.read())
        return classifier.answer(classifier.probabilities([pixels])[0])

    return app


if __name__ == "__main__":
    models, port, *processes = sys.argv[1:]
    os.environ[_MODELS] = models
    uvicorn.run(
        "benchmarks.plain_server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(port),
        workers=int(processes[0]) if processes else 1,
        log_level="warning",
        access_log=False,
    )
