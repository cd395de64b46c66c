"""Measures a checkpoint on a data set's held-out pictures.

    skipvit-evaluate runs/digits
    skipvit-evaluate runs/digits --data builtin:drawn-digits --out /tmp/drawn

Writes evaluation.json, confusion.png and reliability.png, to CHECKPOINT/evaluation unless told otherwise. Pictures go
through the very preprocessing that the server applies.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository root, not train/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from skipvit.arguments import whole

REPORT = "evaluation.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "skipvit-evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder with model.safetensors and checkpoint.json")
    parser.add_argument("--data", help="builtin:digits, imagefolder:/path ...; what it was trained on unless given")
    parser.add_argument("--out", type=Path, help="folder for the report; CHECKPOINT/evaluation unless given")
    parser.add_argument("--batch", type=whole(1), default=256, help="pictures per forward pass")
    parser.add_argument("--workers", type=whole(0), default=0, help="decoding processes")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from train import measure
    except ModuleNotFoundError as error:
        return _fail(f"evaluation needs {error.name}; run: pip install 'skipvit[train]'")
    try:
        report, figures = measure.measure(args.checkpoint, args.data, args.batch, args.workers, args.device)
        out = args.out or args.checkpoint / "evaluation"
        out.mkdir(parents=True, exist_ok=True)
        measure.draw(out, figures)
        # last, so that a folder with a report has the pictures it speaks of
        measure.write(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    except (*measure.EXPECTED, OSError) as error:
        return _fail(error)
    _print(report, out)
    return 0


def _print(report: dict[str, Any], out: Path) -> None:
    """A table for people, then one line of JSON."""
    metrics = report["metrics"]
    print(f"{report['architecture']} on {report['dataset']}")
    for name, value in metrics.items():
        print(f"  {name:<6} {value:.2%}" if name.startswith("top") else f"  {name:<6} {value:.4f}")
    rows = sorted(report["per_class"], key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])
    shown = rows if len(rows) <= 20 else rows[:10]
    print(f"  {'class':<24} {'pictures':>8} {'accuracy':>9}" + ("" if shown == rows else "   (the ten worst)"))
    for row in shown:
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        print(f"  {row['label'][:24]:<24} {row['support']:>8} {accuracy:>9}")
    for confusion in report["top_confusions"][:5]:
        print(f"  {confusion['count']} x {confusion['true']} taken for {confusion['predicted']}")
    print(f"report: {out / REPORT}")
    print(json.dumps({"checkpoint": report["checkpoint"], "dataset": report["dataset"], **metrics}))


def _fail(error: Exception | str) -> int:
    print(f"skipvit-evaluate: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
