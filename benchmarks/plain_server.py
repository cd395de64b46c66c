"""The baseline of the server benchmark: classification as a FastAPI tutorial writes it, one picture a request.

python -m benchmarks.plain_server MODELS_DIR PORT
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, File, UploadFile
from PIL import Image

from skipvit.artifacts import model_names, read_entry


def create_app(models: Path) -> FastAPI:
    """The app over the first model of a repository."""
    entry = read_entry(models, model_names(models)[0])
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(entry.model_path(), options, providers=["CPUExecutionProvider"])
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    # A plain def: FastAPI runs it in its thread pool, so requests overlap.
    @app.post("/v1/classify")
    def classify(file: UploadFile = File()) -> dict[str, Any]:  # noqa: B008 - FastAPI's own way to declare a file
        image = Image.open(io.BytesIO(file.file.read())).convert("RGB")
        pixels = entry.preprocessing(image)[np.newaxis]
        probabilities = session.run(["probabilities"], {"images": pixels})[0][0]
        best = np.argsort(-probabilities)[:5]
        return {"predictions": [{"label": entry.labels[i], "probability": float(probabilities[i])} for i in best]}

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False
    )
