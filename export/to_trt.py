"""Turns an entry of a model repository, or an ONNX file, into a TensorRT engine, and proves it equal to ONNX Runtime.

Our own ops become plugins where TensorRT takes them; what became of each is printed and recorded. Where a GPU can run
the engine, it is compared with ONNX Runtime on the CPU, and a miss leaves no engine. Where none can, the manifest says
"built, not run". Numbers are those of the graph: --precision picks a file of the entry.

    python export/to_trt.py models/digits_skipat
    python export/to_trt.py models/digits_skipat/1 --flavor rtx --precision fp32 --batch 1,32,256
    python export/to_trt.py model.onnx --shape images=1x64x64x3:4x256x256x3:8x512x512x3 --out engines/model.plan
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if not __package__:  # run as a file: the repository root, not export/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from export.engine_arguments import batches_arg, shape_arg
from skipvit.arguments import whole
from skipvit.interruption import end_by_exception

if TYPE_CHECKING:
    from trt_plugins.flavors import Tensorrt
    from trt_plugins.gpus import Gpu

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
_MAX_LEVEL = 5
_MAX_WORKSPACE_MIB = 1 << 24  # 16 TiB
_BUILD_FLAGS = (
    "plugin_code", "timing_cache", "level", "tf32", "version_compatible", "hardware_compatible", "refit", "strip",
    "verbose",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = _parser().parse_args(argv)
    end_by_exception()
    try:
        return _status(arguments)
    except KeyboardInterrupt:
        print("skipvit-to-trt: interrupted; nothing was written", file=sys.stderr)
        return 130


def _status(arguments: argparse.Namespace) -> int:
    try:
        # --help needs none of this, and the base install has neither onnx nor TensorRT.
        from export.engine_build import BuildError
        from export.engine_graph import GraphError
        from export.measures import ParityError
        from skipvit.artifacts import ArtifactError
        from skipvit.picture_files import OriginError
        from trt_plugins.engine_plan import EngineError
        from trt_plugins.flavors import TensorrtMissing
    except ModuleNotFoundError as error:
        print(f"skipvit-to-trt: {error.name} is not installed; run: pip install 'skipvit[trt-rtx]'", file=sys.stderr)
        return 1
    try:
        _run(arguments)
        return 0
    except (ArtifactError, BuildError, EngineError, GraphError, OriginError, ParityError, TensorrtMissing) as error:
        print(f"skipvit-to-trt: {error}", file=sys.stderr)
    except BrokenPipeError:  # the engine is in its place, and whoever read of it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = error.filename or arguments.source  # a full disk has no name
        print(f"skipvit-to-trt: {where} cannot be used: {error.strerror}", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> None:
    from export.engine_inputs import check_pictures
    from export.engine_make import make
    from export.engine_recipe import recipe
    from export.engine_report import report
    from export.engine_shapes import profiles
    from export.engine_target import open_target
    from trt_plugins.gpus import find_gpu

    target = open_target(arguments.source, arguments.version, arguments.precision, arguments.out)
    if arguments.images is not None:
        check_pictures(target, arguments.images)
    gpu = find_gpu()
    tensorrt = _tensorrt(arguments.flavor, gpu)
    shapes = profiles(target.graph, target.manifest, arguments.batch, dict(arguments.shape))
    flags: dict[str, Any] = {name: getattr(arguments, name) for name in _BUILD_FLAGS}
    flags["plugins"] = not arguments.no_plugins
    flags["workspace"] = None if arguments.workspace is None else arguments.workspace << 20
    asked = recipe(target, tensorrt, gpu, shapes, flags)
    report(make(asked, force=arguments.force, compare=not arguments.no_parity, images=arguments.images))
    sys.stdout.flush()


def _tensorrt(choice: Literal["auto", "tensorrt", "rtx"], gpu: "Gpu | None") -> "Tensorrt":
    """``auto`` without a GPU takes TensorRT-RTX first, which builds without one."""
    from trt_plugins.flavors import TensorrtMissing, open_tensorrt

    if choice == "rtx":
        return open_tensorrt("tensorrt-rtx")
    if choice == "auto" and gpu is None:
        try:
            return open_tensorrt("tensorrt-rtx")
        except TensorrtMissing:
            return open_tensorrt("auto")
    return open_tensorrt(choice)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-to-trt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, help="an entry such as models/digits_skipat, its version's folder, or an ONNX file")
    add("--version", type=whole(1), help="version of the entry (default: the latest)")
    add("--out", type=Path, metavar="FILE", help="the engine of a plain ONNX file (default: beside it)")
    add("--precision", choices=_PRECISIONS, help="which file of the entry (default: fp16, then bf16, then fp32)")
    add("--flavor", choices=("auto", "tensorrt", "rtx"), default="auto", help="which TensorRT (default: the installed)")
    add("--no-plugins", action="store_true", help="leave our ops to TensorRT, which computes them from standard ones")
    add(
        "--plugin-code",
        choices=("cubin", "ptx"),
        help="what an engine of TensorRT holds of our kernels (default: cubin)",
    )
    _add_shapes(parser)
    _add_build_flags(parser)
    add("--images", type=Path, metavar="FOLDER", help="pictures to compare on (default: the entry's, or generated)")
    add("--no-parity", action="store_true", help='do not run the engine; the manifest will say "built, not run"')
    add("--force", action="store_true", help="build even where the same engine is there already")
    add("--verbose", action="store_true", help="show what TensorRT logs")
    return parser


def _add_shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch",
        type=batches_arg,
        metavar="MIN,USUAL,MAX",
        help="batch sizes (default: 1,8,64 of a classifier, 1,4,8 of a denoiser's tiles, 1,1,2 of clips)",
    )
    parser.add_argument(
        "--shape",
        type=shape_arg,
        action="append",
        default=[],
        metavar="INPUT=MIN:USUAL:MAX",
        help="shapes of an input, such as images=1x64x64x3:4x256x256x3:8x512x512x3; repeatable, and over --batch",
    )


def _add_build_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--timing-cache", type=Path, metavar="FILE", help="what was timed before (default: in the user's cache folder)")
    add(
        "--opt-level",
        dest="level",
        type=_between(0, _MAX_LEVEL),
        metavar="0..5",
        help="how long to search (default: TensorRT's, 3)",
    )
    add(
        "--workspace",
        type=_between(1, _MAX_WORKSPACE_MIB),
        metavar="MIB",
        help="most scratch memory (default: the GPU's)",
    )
    add("--tf32", action="store_true", help="let float32 products round to TF32: faster, and less exact")
    add("--version-compatible", action="store_true", help="an engine that later versions of TensorRT run too")
    add("--hardware-compatible", action="store_true", help="an engine for Ampere GPUs and later ones")
    add("--refit", action="store_true", help="an engine whose weights can be replaced")
    add("--strip", action="store_true", help="an engine without its weights, which are put in before it runs")


def _between(smallest: int, largest: int) -> Callable[[str], int]:
    """For argparse's ``type``."""

    def parse(text: str) -> int:
        value = whole(smallest)(text)
        if value > largest:
            raise argparse.ArgumentTypeError(f"needs {smallest} to {largest}, got {text!r}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
