"""Makes a checkpoint out of a model that was trained elsewhere.

    skipvit-convert --from-official skipat-tiny.t7 --out runs/skipat_tiny
    skipvit-convert --from-official flowers.t7 --out runs/flowers --labels flowers.txt

--from-official takes the weights that the authors of SkipAt released, or others that their code wrote. Such a file is
read as plain data, none of its code runs, and a file that holds anything unknown, or lacks anything, is refused.
What comes out is what skipvit-train leaves: give it to skipvit-to-onnx, or to skipvit-evaluate, which needs the labels
that the data has. For ImageNet in folders of that name these are the WordNet ids:

    ls /data/imagenet/train > wnids.txt
    skipvit-convert --from-official skipat-tiny.t7 --out runs/skipat_tiny --labels wnids.txt
    skipvit-evaluate runs/skipat_tiny --data imagefolder:/data/imagenet
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

if not __package__:  # run as a file: the repository root, not train/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parse(argv)
    if args.out.exists():
        return _fail(f"{args.out} exists; give another --out, or remove that folder first")
    signal.signal(signal.SIGTERM, _leave)  # like an interrupt: what was begun is cleaned up
    try:
        return _convert(args)
    except KeyboardInterrupt:
        print("skipvit-convert: interrupted; nothing was written", file=sys.stderr)
        return 130


def _convert(args: argparse.Namespace) -> int:
    # torch is slow to load, and --help should neither wait for it nor need it.
    try:
        from train import convert_official
    except ModuleNotFoundError as error:
        return _fail(f"converting needs {error.name}; run: pip install 'skipvit[train]'")
    try:
        convert_official.convert(args.from_official, args.out, args.labels, args.num_heads)
    except convert_official.EXPECTED as error:
        return _fail(error)
    except OSError as error:
        return _fail(f"{error.filename or args.out}: {error.strerror or error}; give another --out, or make room")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "skipvit-convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--from-official", type=Path, required=True, metavar="FILE", help="a released file of SkipAt weights, .t7")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the checkpoint to make; it must not be there yet")
    add(
        "--labels", type=Path, metavar="FILE", help="class names, one a line; ImageNet's unless given, for 1000 classes"
    )
    add("--num-heads", type=_positive, metavar="N", help="heads of each attention; embed_dim / 64 unless given")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number from 1 up, got {text!r}")
    return int(text)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(error: Exception | str) -> int:
    print(f"skipvit-convert: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
