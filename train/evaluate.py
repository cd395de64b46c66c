"""Measures a checkpoint on a data set's held-out pictures.

    skipvit-evaluate runs/digits
    skipvit-evaluate runs/digits --data builtin:drawn-digits --out /tmp/drawn
    skipvit-evaluate runs/photos_skipat --sigma 15,25,50
    skipvit-evaluate runs/pans_skipat --sigma 30 --beside runs/photos_skipat
    skipvit-evaluate uformer_base --weights Uformer_B.pth --data sidd:/data/SIDD --out /tmp/uformer

Writes evaluation.json and pictures, to CHECKPOINT/evaluation unless told otherwise. Of a classifier, the pictures are
confusion.png and reliability.png, and what it sees goes through the very preprocessing that the server applies. Of a
denoiser they are, for each picture and sigma, what it and classical methods make of it; the noisy and the clean picture
as files to send to a server; and a table of PSNR and SSIM. Of a video denoiser they are the middle frame of each clip,
and with the extra "video" clips to send.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the repository root, not train/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from skipvit.arguments import whole

REPORT = "evaluation.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "skipvit-evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder with model.safetensors and checkpoint.json, or a name")
    parser.add_argument("--data", help="builtin:digits, gaussian:/path ...; what it was trained on unless given")
    parser.add_argument("--out", type=Path, help="folder for the report; CHECKPOINT/evaluation unless given")
    parser.add_argument("--batch", type=whole(1), default=256, help="pictures per forward pass of a classifier")
    parser.add_argument("--workers", type=whole(0), default=0, help="decoding processes")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    denoisers = parser.add_argument_group("denoisers")
    denoisers.add_argument("--sigma", type=_sigmas, help="Gaussian noise in 1/255, e.g. 15,25,50")
    denoisers.add_argument("--ensemble", action="store_true", help="mean over 8 ways to turn and mirror a picture")
    denoisers.add_argument("--tile", type=whole(8), default=0, help="cut pictures into tiles of so many pixels a side")
    denoisers.add_argument(
        "--weights", type=Path, help="weights for a model given by name: .safetensors, or .pth without pickled code"
    )
    video = parser.add_argument_group("video denoisers")
    video.add_argument("--frames", type=whole(0), default=0, help="the first so many frames of each clip; 0 takes all")
    video.add_argument("--beside", type=Path, help="checkpoint of a denoiser, of pictures or video, to compare with")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from skipvit.publishing import write_atomically
        from train import evaluation
    except ModuleNotFoundError as error:
        return _fail(f"evaluation needs {error.name}; run: pip install 'skipvit[train]'")
    try:
        options = evaluation.Options(
            args.data,
            args.batch,
            args.workers,
            args.device,
            args.sigma,
            args.ensemble,
            args.tile,
            args.frames,
            args.beside,
            args.weights,
        )
        report = evaluation.evaluate(args.checkpoint, options)
        out = args.out or args.checkpoint / "evaluation"
        out.mkdir(parents=True, exist_ok=True)
        report.draw(out)
        # last, so that a folder with a report has the pictures it speaks of
        write_atomically(out / REPORT, json.dumps(report.content, indent=2, ensure_ascii=False) + "\n")
    except (*evaluation.EXPECTED, OSError) as error:
        return _fail(error)
    print(*report.table(), f"report: {out / REPORT}", sep="\n")
    print(json.dumps({"checkpoint": str(args.checkpoint), **report.summary()}))
    return 0


def _sigmas(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < sigma <= 255 for sigma in found):
        raise argparse.ArgumentTypeError(f"needs numbers from 0 to 255 such as 15,25,50, got {text!r}")
    return tuple(dict.fromkeys(found))


def _fail(error: Exception | str) -> int:
    print(f"skipvit-evaluate: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
