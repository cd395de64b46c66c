"""What every peer does with a picture, outside what it is measured for: decode, run the model, name the classes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from skipvit.artifacts import model_names, read_entry
from skipvit.transforms import Pixels

MAX_BATCH = 16


class Classifier:
    """The first model of a repository."""

    def __init__(self, models: Path) -> None:
        self._entry = read_entry(models, model_names(models)[0])
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = self._entry.model_path()
        self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def decode(self, data: bytes) -> Pixels:
        """An encoded picture as the model's input (height, width, 3), as Pillow alone makes it."""
        rule = self._entry.preprocessing
        with Image.open(io.BytesIO(data)) as image:
            rgb = image.convert("RGB")
        filter_ = Image.Resampling[rule.interpolation.upper()]
        return np.asarray(rgb.resize((rule.width, rule.height), filter_, rule.window(*rgb.size)))

    def probabilities(self, pixels: list[Pixels]) -> npt.NDArray[np.float32]:
        """Of B pictures: (B, classes)."""
        found: npt.NDArray[np.float32] = self._session.run(["probabilities"], {self._input: np.stack(pixels)})[0]
        return found

    def answer(self, probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
        """The five likeliest of (classes,) as JSON has them."""
        best = np.argsort(-probabilities)[:5]
        found = [{"label": self._entry.labels[i], "probability": float(probabilities[i])} for i in best]
        return {"predictions": found}
