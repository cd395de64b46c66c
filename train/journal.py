"""What a run tells: a progress bar for people, metrics.jsonl for programs, TensorBoard for curves."""

import json
import time
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from skipvit.publishing import write_atomically

METRICS = "metrics.jsonl"


class Journal:
    """Written by the leading process only; ``quiet`` makes every call do nothing.

    A resumed run goes on in the same files: lines of steps that will be taken again are dropped first.
    """

    def __init__(self, run: Path, start: int, total: int, batch: int, tensorboard: bool, quiet: bool) -> None:
        self.quiet = quiet
        if quiet:
            return
        self.batch = batch
        path = run / METRICS
        write_atomically(path, "".join(_lines_up_to(path, start)))
        self.file = path.open("a", encoding="utf-8", buffering=1)
        self.board = _board(run / "tensorboard", start) if tensorboard else None
        # tqdm is silent where stderr is no terminal; the epoch lines below are printed all the same
        self.bar = tqdm(
            total=total * batch, initial=start * batch, unit=" images", unit_scale=True, disable=None, smoothing=0.05
        )
        self.window_start, self.window_steps = time.perf_counter(), 0

    def step(self, loss: float) -> None:
        """One step is done."""
        if self.quiet:
            return
        self.window_steps += 1
        self.bar.update(self.batch)
        self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)

    def log(self, step: int, epoch: float, **values: float) -> None:
        """Writes values measured after ``step`` steps, with the rate since the last call."""
        if self.quiet:
            return
        now = time.perf_counter()
        rate = self.window_steps * self.batch / max(now - self.window_start, 1e-9)
        self.window_start, self.window_steps = now, 0
        self._write(step, {"epoch": round(epoch, 4), **values, "images_per_s": round(rate, 1)})

    def evaluated(
        self, step: int, epoch: int, epochs: int, loss: float, metrics: dict[str, float], headline: str
    ) -> None:
        """Writes an evaluation, and tells the user its ``headline``."""
        if self.quiet:
            return
        self._write(step, {"epoch": epoch, **metrics})
        self.bar.write(f"epoch {epoch:>4}/{epochs}  loss {loss:.4g}  {headline}")
        self.window_start, self.window_steps = time.perf_counter(), 0  # evaluation is no training time

    def say(self, text: str) -> None:
        """Prints a line beside the bar."""
        if not self.quiet:
            self.bar.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.quiet:
            return
        self.bar.close()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Complete lines of steps up to ``step``; a kill may have cut the last one short."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError(
            "run.tensorboard = true needs tensorboard; pip install 'skipvit[train]' or --set run.tensorboard=false"
        ) from None
    return SummaryWriter(str(folder), purge_step=start or None)
