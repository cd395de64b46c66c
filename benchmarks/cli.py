"""Measures engines, servers and the demo's accuracy: baseline and variant in turns, medians, one CSV row each.

    skipvit-bench engine --sizes tiny small --resolutions 224 384
    skipvit-bench server --rounds 3 --seconds 4
    skipvit-bench accuracy --seeds 0 1 2

Close other programs first. The rows carry machine, versions and commit; `make readme` puts them into README.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        from benchmarks import rows as results

        if arguments.what == "engine":
            from benchmarks import engines

            packages: tuple[str, ...] = engines.PACKAGES
            rows = [
                row
                for size in arguments.sizes
                for resolution in arguments.resolutions
                for row in engines.measure(size, resolution, arguments.batches, arguments.rounds)
            ]
        elif arguments.what == "accuracy":
            from benchmarks import accuracy

            packages = accuracy.PACKAGES
            rows = accuracy.measure(arguments.seeds)
        else:
            from benchmarks import servers

            packages = servers.PACKAGES
            rows = servers.measure(arguments.seconds, arguments.rounds, arguments.clients)
    except ModuleNotFoundError as error:
        print(f"skipvit-bench: {error.name} is not installed; run: pip install 'skipvit[bench,train]'", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"skipvit-bench: {error}", file=sys.stderr)
        return 1
    path = results.write_rows(arguments.what, rows, packages, arguments.out)
    results.print_table(list(rows))
    print(f"Written: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--out", type=Path, default=results, help="folder of the CSV (default: benchmarks/results)")
    what = parser.add_subparsers(dest="what", required=True)
    engine = what.add_parser("engine", help="ViT and SkipAt in PyTorch and ONNX Runtime on one core")
    engine.add_argument("--sizes", nargs="+", choices=("tiny", "small", "base"), default=["tiny", "small"])
    engine.add_argument("--resolutions", nargs="+", type=_positive, default=[224], help="in pixels, multiples of 16")
    engine.add_argument("--batches", nargs="+", type=_positive, default=[1, 8], help="images a call (default: 1 8)")
    engine.add_argument("--rounds", type=_positive, default=9, help="turns of every candidate (default: 9)")
    server = what.add_parser("server", help="ours against plain FastAPI, over HTTP on this machine")
    server.add_argument("--seconds", type=float, default=4.0, help="length of one turn (default: 4)")
    server.add_argument("--rounds", type=_positive, default=3, help="turns of every candidate (default: 3)")
    server.add_argument("--clients", nargs="+", type=_positive, default=[1, 32], help="connections (default: 1 32)")
    accuracy = what.add_parser("accuracy", help="trains the demo's ViT and SkipAt with several seeds")
    accuracy.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one training each (default: 0 1 2)")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number from 1 up, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
