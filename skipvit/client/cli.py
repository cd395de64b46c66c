"""Ask a running skipvit-serve from a terminal, and measure it.

    skipvit-client classify cat.jpg dog.png --top-k 3
    skipvit-client denoise noisy.png -o clean.png
    skipvit-client denoise photos/ -o clean/ --format jpeg
    skipvit-client video noisy.mp4 -o clean.mp4
    skipvit-client models
    skipvit-client bench --clients 32 --seconds 10
    skipvit-client bench photos/ --rate 100 --json

The server is http://127.0.0.1:8000 unless --url or SKIPVIT_URL names another. A server that is busy or starting is
asked again until --timeout. An API key comes from SKIPVIT_API_KEY alone, since others can read a command line.
Exit codes: 0 all is well; 1 a file or the server failed; 2 the command line is wrong; 130 ended by Ctrl-C.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from skipvit.arguments import whole
from skipvit.client import bench, commands
from skipvit.client.address import DEFAULT_URL
from skipvit.client.errors import ClientError
from skipvit.client.event_loop import new_loop

_TIMEOUTS_S = {"classify": 60.0, "denoise": 300.0, "video": 900.0, "models": 10.0, "bench": 60.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    args.api_key = os.environ.get("SKIPVIT_API_KEY") or None
    try:
        with asyncio.Runner(loop_factory=args.loop_factory) as runner:
            code = runner.run(args.run(args))
        sys.stdout.flush()
        return code
    except ClientError as error:
        print(f"skipvit-client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skipvit-client: ended by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `skipvit-client models | head -1`: nobody reads on, and that is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_classify(found)
    _add_denoise(found)
    _add_video(found)
    models = _command(found, "models", "list what the server serves")
    models.add_argument("--json", action="store_true", help="one JSON line a model")
    models.set_defaults(run=commands.models)
    _add_bench(found)
    return parser


def _command(
    found: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str
) -> argparse.ArgumentParser:
    parser = found.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    parser.set_defaults(loop_factory=None)
    url = os.environ.get("SKIPVIT_URL") or DEFAULT_URL
    parser.add_argument("--url", default=url, help="of the server (default: SKIPVIT_URL, or else %(default)s)")
    parser.add_argument(
        "--timeout",
        type=_number(above=0),
        default=_TIMEOUTS_S[name],
        metavar="SECONDS",
        help="longest that one request may take, its retries included (default: %(default)g)",
    )
    if name != "bench":
        parser.add_argument(
            "--retries",
            type=whole(0),
            default=5,
            metavar="N",
            help="after 429, 503 and a refused connection (default: %(default)d)",
        )
    if name != "models":
        parser.add_argument("--model", metavar="NAME", help="one of `skipvit-client models` (default: the first fit)")
    return parser


def _add_classify(found: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(found, "classify", "say what pictures show")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="pictures, or folders of them")
    parser.add_argument("--top-k", type=whole(1), default=3, metavar="K", help="classes a picture (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON line a picture, errors among them")
    parser.add_argument("--concurrency", type=whole(1), default=8, metavar="N", help="requests at a time (default: 8)")
    parser.set_defaults(run=commands.classify)


def _add_denoise(found: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(found, "denoise", "take the noise out of a picture, or of a folder of them")
    parser.add_argument("source", type=Path, metavar="IN", help="a picture, or a folder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a file, or for a folder a folder")
    parser.add_argument(
        "--format", choices=sorted(commands.FORMATS), help="of what is written (default: by OUT's name, or else png)"
    )
    parser.add_argument("--quality", type=whole(1), metavar="1-100", help="of a JPEG or WebP (default: the server's)")
    parser.add_argument("--concurrency", type=whole(1), default=2, metavar="N", help="requests at a time (default: 2)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.set_defaults(run=commands.denoise)


def _add_video(found: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(found, "video", "take the noise out of a short clip")
    parser.add_argument("source", type=Path, metavar="IN", help="a clip")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="a file: .mp4 for players, .mkv for exact frames (FFV1)"
    )
    parser.add_argument(
        "--sigma", type=_number(least=0, most=255), metavar="0-255", help="of the noise (default: it is measured)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=commands.video)


def _add_bench(found: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(found, "bench", "measure how fast the server answers")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="pictures to send in turns, or folders")
    parser.add_argument("--task", choices=["classify", "denoise"], default="classify", help="(default: %(default)s)")
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--clients", type=whole(1), default=1, metavar="N", help="closed loop: N requests in flight (default: 1)"
    )
    load.add_argument(
        "--rate",
        type=_number(above=0),
        metavar="R",
        help="open loop: R requests start a second at random times, whatever the server does; latency counts from "
        "the time that a request was meant to start",
    )
    parser.add_argument("--seconds", type=_number(above=0), default=10.0, help="that count (default: %(default)g)")
    parser.add_argument("--warmup", type=_number(least=0), default=1.0, help="seconds before (default: %(default)g)")
    parser.add_argument(
        "--size", type=bench.size, default=(500, 375), metavar="WxH", help="of a picture made up (default: 500x375)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the random start times (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON line in place of the table")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="add a row to this file, which is made if need be")
    parser.set_defaults(run=bench.run, loop_factory=new_loop)


def _number(*, least: float = float("-inf"), above: float = float("-inf"), most: float = 1e6) -> Callable[[str], float]:
    """A reader of numbers within bounds, for argparse's ``type``."""
    needed = f"a number above {above:g}" if above > float("-inf") else f"a number from {least:g} to {most:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least <= value <= most and value > above):
            raise argparse.ArgumentTypeError(f"needs {needed}, got {text!r}")
        return value

    return read


if __name__ == "__main__":
    sys.exit(main())
