"""Turns an entry of a model repository, or an ONNX file, into a TensorRT engine, and proves it equal to ONNX Runtime.

Our own ops become plugins where TensorRT takes them; what became of each is printed and recorded. Where a GPU can run
the engine, it is compared with ONNX Runtime on the CPU, and a miss leaves no engine. Where none can, the manifest says
"built, not run". Numbers are those of the graph: --precision picks a file of the entry.

    python export/to_trt.py models/digits_skipat
    python export/to_trt.py models/digits_skipat/1 --flavor rtx --precision fp32 --batch 1,32,256
    python export/to_trt.py model.onnx --shape images=1x64x64x3:4x256x256x3:8x512x512x3 --out engines/model.plan
"""

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

if not __package__:  # run as a file: the repository root, not export/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from export.engine_arguments import batches_arg, shape_arg
from skipvit.arguments import whole

if TYPE_CHECKING:
    from skipvit.manifest import Engine
    from trt_plugins.flavors import Tensorrt
    from trt_plugins.gpus import Gpu

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
_MAX_LEVEL = 5
_BUILD_FLAGS = ("level", "tf32", "version_compatible", "hardware_compatible", "refit", "strip", "verbose")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)  # like an interrupt: what was begun is cleaned up
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
        return _run(arguments)
    except (ArtifactError, BuildError, EngineError, GraphError, OriginError, ParityError, TensorrtMissing) as error:
        print(f"skipvit-to-trt: {error}", file=sys.stderr)
    except OSError as error:
        print(f"skipvit-to-trt: {error.filename} cannot be used: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("skipvit-to-trt: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 1


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace) -> int:
    from export import engine_build
    from export.engine_recipe import recipe
    from export.engine_shapes import profiles
    from export.engine_target import open_target
    from export.engine_verify import verified
    from export.measures import ParityError
    from skipvit.publishing import why_unwritable
    from trt_plugins.gpus import find_gpu

    target = open_target(arguments.source, arguments.version, arguments.precision, arguments.out)
    gpu = find_gpu()
    tensorrt = _tensorrt(arguments.flavor, gpu)
    shapes = profiles(target.graph, target.manifest, arguments.batch, dict(arguments.shape))
    flags: dict[str, Any] = {name: getattr(arguments, name) for name in _BUILD_FLAGS}
    # a kernel's machine code runs on GPUs of one major version only
    code = arguments.plugin_code or ("ptx" if arguments.hardware_compatible else "cubin")
    flags |= {"plugins": not arguments.no_plugins, "plugin_code": code, "timing_cache": arguments.timing_cache}
    flags["workspace"] = None if arguments.workspace is None else arguments.workspace << 20
    asked = recipe(target, tensorrt, gpu, shapes, flags)
    known = None if arguments.force else asked.already_built(verify=gpu is not None and not arguments.no_parity)
    if known is not None:
        print(f"{target.folder / known.file} is what would be built; --force builds it again.")
        _print_ops(known)
        _finish(target.folder / known.file, known, cached=True)
        return 0
    if why := why_unwritable(target.folder):
        raise OSError(None, why, str(target.folder))
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.folder) as folder:
        plan = Path(folder) / asked.file
        built = engine_build.build(dataclasses.replace(asked.job, plan=str(plan)), asked.file)
        try:
            parity, why_not = (None, "--no-parity") if arguments.no_parity else verified(asked, plan, arguments.images)
        except ParityError:
            target.withdraw(asked.file)  # what an earlier run left unverified is no better
            raise
        engine = asked.record(built, parity)
        place = target.publish(plan, engine)
    _print_layers(built.layers)
    _print_ops(engine)
    _print_parity(engine, why_not)
    _finish(place, engine, cached=False)
    return 0


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


def _print_layers(layers: Mapping[str, int]) -> None:
    print(f"Layers, as TensorRT read the graph: {sum(layers.values())}")
    for kind, count in sorted(layers.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {kind.lower():<24}{count:>6}")


def _print_ops(engine: "Engine") -> None:
    names = sorted({*engine.plugins, *engine.bodies})
    if not names:
        print("The graph has no op of ours: plugins have nothing to do in it.")
        return
    width = max(map(len, names)) + 2
    print(f"{'Our ops':<{width + 2}}{'nodes':>7}{'plugins':>9}{'bodies':>8}")
    for name in names:
        plugins, bodies = engine.plugins.get(name, 0), engine.bodies.get(name, 0)
        print(f"  {name:<{width}}{plugins + bodies:>7}{plugins:>9}{bodies:>8}")


def _print_parity(engine: "Engine", why_not: str) -> None:
    parity = engine.parity
    if parity is None:
        print(f"Built, not run: {why_not}. Nothing vouches for what this engine computes.")
        return
    figures = [f"max abs {parity.max_abs:.1e}", f"relative {parity.max_relative:.1e}"]
    if parity.psnr_db is not None:
        figures.append(f"PSNR {parity.psnr_db:.1f} dB")
    if parity.top1_agreement is not None:
        figures.append(f"top-1 agreement {parity.top1_agreement:.2%}")
    print(f"Verified: {', '.join(figures)}; {parity.engine}, {parity.images_from}; needed: {parity.tolerance}")


def _finish(place: Path, engine: "Engine", cached: bool) -> None:
    made_for = f"compute capability {engine.compute_capability}"
    print(f"{'Found' if cached else 'Written'}: {place} ({engine.flavor} {engine.flavor_version}, {made_for})")
    print(json.dumps({"engine": str(place), "cached": cached, **engine.model_dump(mode="json")}))


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
    add("--opt-level", dest="level", type=_level, metavar="0..5", help="how long to search (default: TensorRT's, 3)")
    add("--workspace", type=whole(1), metavar="MIB", help="most scratch memory (default: the GPU's)")
    add("--tf32", action="store_true", help="let float32 products round to TF32: faster, and less exact")
    add("--version-compatible", action="store_true", help="an engine that later versions of TensorRT run too")
    add("--hardware-compatible", action="store_true", help="an engine for Ampere GPUs and later ones")
    add("--refit", action="store_true", help="an engine whose weights can be replaced")
    add("--strip", action="store_true", help="an engine without its weights, which are put in before it runs")


def _level(text: str) -> int:
    level = whole(0)(text)
    if level > _MAX_LEVEL:
        raise argparse.ArgumentTypeError(f"needs 0 to {_MAX_LEVEL}, got {text!r}")
    return level


if __name__ == "__main__":
    sys.exit(main())
