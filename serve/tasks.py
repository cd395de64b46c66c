"""Tasks: what a model of each takes and gives, row by row, and the route that answers with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from skipvit.artifacts import Entry
from skipvit.manifest import Task

ServedTask = Task | Literal["tensors"]
"""A served model's task; "tensors" is that of models that are not ours, whose purpose nobody knows."""

ROUTES: dict[Task, str] = {
    "classification": "/v1/classify",
    "denoising": "/v1/denoise",
    "video-denoising": "/v1/denoise/video",
}
SAMPLE = "/v1/models/{name}/samples/{file}"


@dataclass(frozen=True, slots=True)
class Contract:
    """One row of a graph's uint8 input, and of the output that the server fetches.

    ``result`` is None where the graph itself says how long a row is: (classes,).
    """

    row: tuple[int, ...]
    output: str
    dtype: Literal["float32", "uint8"]
    result: tuple[int, ...] | None = None


def contract_of(entry: Entry) -> Contract:
    """What the server and the graph of ``entry`` must agree on."""
    task = entry.manifest.task
    if task == "classification":
        size = entry.preprocessing
        return Contract((size.height, size.width, 3), "probabilities", "float32")
    tile, frames = entry.tiling.tile, entry.tiling.frames
    if task == "denoising":
        return Contract((tile, tile, 3), "denoised", "uint8", (tile, tile, 3))
    # RGB and the map of the noise's strength; see skipvit.models' video denoiser.
    return Contract((frames, tile, tile, 4), "denoised", "uint8", (frames, tile, tile, 3))


def missing_package(models: Iterable[tuple[str, ServedTask]]) -> str:
    """What to install before models, by name and task, can be served; empty if nothing is missing."""
    videos = [name for name, task in models if task == "video-denoising"]
    if not videos or find_spec("av") is not None:
        return ""
    return (
        f"model {videos[0]!r} denoises video, which needs PyAV; run: pip install 'skipvit[video]', "
        "or serve a folder without that model"
    )
