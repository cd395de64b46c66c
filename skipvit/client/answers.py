"""The server's answers as types: what is needed is checked strictly, what a newer server adds is passed over."""

import io
import math
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skipvit.client.errors import BrokenAnswer, Refused, ServerError, ServerFailed

T = TypeVar("T", bound=BaseModel)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Prediction(_Answer):
    """One class, and how likely it is: a probability from 0 to 1."""

    label: str
    index: int = Field(ge=0)
    probability: float = Field(ge=0, le=1)


class ModelVersion(_Answer):
    """The model that answered."""

    name: str
    version: str


class Classification(_Answer):
    """What one picture shows.

    Attributes:
        file: the picture's name, or None if it had none.
        predictions: the likeliest classes, best first.
        timing_ms: milliseconds at the server, by stage.
        batch_size: pictures that the model ran on at once.
        request_id: under which the server's log has the request.
    """

    file: str | None
    model: ModelVersion
    predictions: list[Prediction] = Field(min_length=1)
    timing_ms: dict[str, float] = {}
    batch_size: int = 1
    request_id: str = ""

    @property
    def best(self) -> Prediction:
        """The likeliest class."""
        return self.predictions[0]


class ModelInfo(_Answer):
    """A served model, as far as a client needs it."""

    name: str
    version: str
    task: str
    architecture: str = ""
    classes: int = 0
    labels: list[str] = []
    params: int = 0
    macs: int = 0
    max_batch: int = 1


class _Problem(_Answer):
    code: str
    message: str
    hint: str = ""


class _Result(_Answer):
    file: str | None = None
    predictions: list[Prediction] | None = None
    timing_ms: dict[str, float] = {}
    batch_size: int = 1
    error: _Problem | None = None


class _Classified(_Answer):
    id: str = ""
    model: ModelVersion
    results: list[_Result] = Field(min_length=1)


class _Models(_Answer):
    models: list[ModelInfo]


class Restored(_Answer):
    """What the server says of a picture or clip that it denoised, from the answer's headers.

    Attributes:
        media_type: such as "image/png".
        model: name and version, such as "photos_skipat/1".
        tiles: pieces that it was cut into, or None if the server does not say.
        notes: what was changed on purpose, such as a profile that was dropped.
        timing_ms: milliseconds at the server, by stage.
        request_id: under which the server's log has the request.
    """

    media_type: str
    model: str = ""
    tiles: int | None = None
    notes: list[str] = []
    timing_ms: dict[str, float] = {}
    request_id: str = ""


class Denoised(Restored):
    """A picture without its noise; ``data`` is the file's bytes."""

    data: bytes = Field(repr=False)

    def image(self) -> Image.Image:
        """The picture, decoded."""
        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image


class DenoisedVideo(Restored):
    """A clip without its noise, written to ``path``."""

    path: Path
    size: int


def read_classification(body: bytes, name: str | None) -> Classification:
    """The one result of an answer to a request with one picture.

    Raises:
        BrokenAnswer: it is no such answer.
        ServerError: the picture has an error in place of predictions.
    """
    answer = _validated(_Classified, body)
    result = answer.results[0]
    if result.error is not None:
        raise _picture_error(result.error, answer.id)
    if not result.predictions:
        raise _unlike("neither predictions nor an error")
    return Classification(
        file=result.file or name,
        model=answer.model,
        predictions=result.predictions,
        timing_ms=result.timing_ms,
        batch_size=result.batch_size,
        request_id=answer.id,
    )


def read_models(body: bytes) -> list[ModelInfo]:
    """Every served model. Raises BrokenAnswer."""
    return _validated(_Models, body).models


def read_headers(headers: dict[str, str]) -> dict[str, Any]:
    """The fields of ``Restored`` in an answer's headers, whose names are in lower case; what is missing stays out."""
    fields: dict[str, Any] = {"media_type": headers.get("content-type", "").partition(";")[0].strip().lower()}
    fields["model"] = headers.get("x-skipvit-model", "")
    fields["request_id"] = headers.get("x-request-id", "")
    tiles = headers.get("x-skipvit-tiles", "")
    fields["tiles"] = int(tiles) if tiles.isascii() and tiles.isdigit() and len(tiles) <= 9 else None
    fields["notes"] = [note.strip() for note in headers.get("x-skipvit-note", "").split(";") if note.strip()]
    fields["timing_ms"] = _server_timing(headers.get("server-timing", ""))
    return fields


def _server_timing(header: str) -> dict[str, float]:
    """Durations by name (W3C Server Timing); what cannot be read is passed over."""
    times: dict[str, float] = {}
    for metric in header.split(","):
        name, _, rest = metric.strip().partition(";")
        for parameter in rest.split(";"):
            key, _, value = parameter.strip().partition("=")
            try:
                duration = float(value) if key.strip().lower() == "dur" else math.nan
            except ValueError:
                continue
            if name and math.isfinite(duration):
                times[name.strip()] = duration
    return times


def _validated(kind: type[T], body: bytes) -> T:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise _unlike(f"at {where}: {first['msg']}") from None


def _unlike(what: str) -> BrokenAnswer:
    return BrokenAnswer(f"the answer is not skipvit-serve's ({what})", "check the URL, and that it is a skipvit server")


def _picture_error(problem: _Problem, request_id: str) -> ServerError:
    kind = ServerFailed if problem.code in ("engine_failed", "internal_error") else Refused
    return kind(200, problem.code, problem.message, problem.hint, request_id=request_id)
