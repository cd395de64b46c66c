"""What a conversion was asked to do, and the folder in which it does it. Nothing here imports torch.

<out>/conversion.json    the settings, and how far it came
<out>/state/             while it distils: what a killed conversion goes on from
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skipvit.publishing import write_atomically

CONVERSION = "conversion.json"
_DONE = "checkpoint.json"


class ConversionError(Exception):
    """A conversion cannot be begun, or cannot go on; the message says what to do."""


class Settings(BaseModel):
    """All that decides the outcome; the fields are the program's options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: str | None = None
    pretrained: bool = False
    model_args: dict[str, Any] = Field(default_factory=dict)
    spec: str
    choices: dict[str, Any] = Field(default_factory=dict)
    images: str
    limit: int
    steps: int
    batch: int | None = None
    lr: float | None = None
    minutes: float
    augment: Literal["auto", "digits", "photographs", "none"] = "auto"
    seed: int = 0


class Stage(BaseModel):
    """The model after one step of the conversion, on the held-out pictures.

    Attributes:
        cosine: of its logits and the original's, mean over pictures.
        agreement: share of pictures that both put into the same class.
        kl: KL(original ‖ model) of class probabilities in nats, mean over pictures.
        top1: share that it recognises, where classes are known.
        images_per_s, original_images_per_s: measured in turns, in this order of the names.
    """

    name: str
    cosine: float
    agreement: float
    kl: float
    top1: float | None
    images_per_s: float
    original_images_per_s: float

    @property
    def speed_up(self) -> float:
        return self.images_per_s / self.original_images_per_s


class Progress(BaseModel):
    """What conversion.json holds: written once distillation begins, with its planned steps.

    ``inputs`` is a digest of the original's weights and of the pictures, which the settings only name.
    """

    settings: Settings
    inputs: str
    steps: int
    stages: tuple[Stage, ...]


def save_progress(out: Path, progress: Progress) -> None:
    """Writes conversion.json, complete or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / CONVERSION, json.dumps(progress.model_dump(mode="json"), indent=2) + "\n")


def read_progress(out: Path) -> Progress | None:
    """What an earlier run left in ``out``, or None.

    Raises:
        ConversionError: the file is damaged.
    """
    path = out / CONVERSION
    try:
        return Progress.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ConversionError(f"{path} cannot be read ({reason}); remove {out} to start again") from None


def check_out(out: Path, settings: Settings, resuming: bool) -> Progress | None:
    """Refuses to mix two conversions, or a conversion with anything else, in one folder.

    Returns:
        What an earlier run came to, where this one shall go on.

    Raises:
        ConversionError: the folder holds something else.
    """
    before = read_progress(out) if out.is_dir() else None
    if before is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConversionError(f"{out} exists and is no conversion; give another --out, or remove it first")
        return None
    if not resuming:
        raise ConversionError(
            f"{out} holds a conversion already; go on with --resume, remove it, or give another --out"
        )
    mine, theirs = settings.model_dump(), before.settings.model_dump()
    changed = [f"  {key}: {mine[key]!r}, was {theirs[key]!r}" for key in mine if mine[key] != theirs[key]]
    if changed:
        raise ConversionError(f"{out} was begun with other settings; to resume it, undo:\n" + "\n".join(changed))
    return before


def is_done(out: Path) -> bool:
    """Whether the conversion in ``out`` has left its checkpoint."""
    return (out / _DONE).exists()


def abandon(out: Path) -> None:
    """Takes away what a conversion that came to nothing has written."""
    shutil.rmtree(out / "state", ignore_errors=True)
    (out / CONVERSION).unlink(missing_ok=True)
    with suppress(OSError):  # stays where somebody else's files are in it
        out.rmdir()
