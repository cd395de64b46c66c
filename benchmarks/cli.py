"""Measures engines, servers, and accuracy against speed: baseline and variant in turns, medians, one CSV row each.

    skipvit-bench engine --sizes tiny small --resolutions 224 384
    skipvit-bench engine --sizes small --batches 8 --families vit dgssa_glad --forms timm skipvit
    skipvit-bench denoisers --sizes micro tiny --sides 128 256
    skipvit-bench denoising --seeds 0 1 2
    skipvit-bench clips --jobs 2
    skipvit-bench curve runs/photos_skipat_long
    skipvit-bench server --rounds 3 --seconds 4
    skipvit-bench peers --rounds 8 --seconds 1.2
    skipvit-bench ladder --seconds 30 --p99-ms 300
    skipvit-bench hot-swap --seconds 60
    skipvit-bench pareto --seeds 0 1 2 --jobs 2 --scratch /tmp/pareto
    skipvit-bench denoise-server --models models --megapixels 24
    skipvit-bench gpu --only kernels
    skipvit-bench runner --batches 32
    skipvit-bench presets

Close other programs first. The rows carry machine, versions and commit; `make readme` puts them into README. `pareto`
trains the demo's family, converts its ViT, and draws accuracy against speed; interrupted, the same command goes on.
`presets` measures nothing: it prints what every preset costs, counted and by closed forms.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import gpu_cli, proofs
from benchmarks.families import DENOISERS, FAMILIES, FORMS
from skipvit.arguments import whole


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = _parser().parse_args(argv)
    commands = {
        "engine": _engine,
        "server": _server,
        "denoise-server": _denoise_server,
        "denoisers": _denoisers,
        "denoising": _denoising,
        "clips": _clips,
        "curve": _curve,
        "pareto": _pareto,
        "gpu": _gpu,
        "runner": _runner,
        "presets": _presets,
    }
    try:
        if arguments.what in proofs.PROOFS:
            return proofs.run(arguments.what, arguments)
        return commands[arguments.what](arguments)
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed; run: pip install 'skipvit[bench,train]'")
    except RuntimeError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("skipvit-bench: interrupted", file=sys.stderr)
        return 130


def _engine(arguments: argparse.Namespace) -> int:
    from benchmarks import engines

    forms = [FORMS[name] for name in arguments.forms]
    rows = [
        row
        for size in arguments.sizes
        for resolution in arguments.resolutions
        for row in engines.measure(size, resolution, arguments.batches, arguments.rounds, arguments.families, forms)
    ]
    _finish("engine", rows, engines.PACKAGES, arguments.out)
    return 0


def _denoisers(arguments: argparse.Namespace) -> int:
    from benchmarks import denoisers

    rows = [
        row
        for size in arguments.sizes
        for side in arguments.sides
        for row in denoisers.measure(size, side, arguments.batch, arguments.rounds)
    ]
    _finish("denoisers", rows, denoisers.PACKAGES, arguments.out)
    return 0


def _denoising(arguments: argparse.Namespace) -> int:
    from benchmarks import denoising

    rows = denoising.measure(arguments.seeds, arguments.sigmas, arguments.scratch)
    _finish("denoising", rows, denoising.PACKAGES, arguments.out)
    return 0


def _clips(arguments: argparse.Namespace) -> int:
    from benchmarks import clips

    rows = clips.measure(arguments.seeds, arguments.sigmas, arguments.scratch, arguments.jobs)
    _finish("clips", rows, clips.PACKAGES, arguments.out)
    return 0


def _curve(arguments: argparse.Namespace) -> int:
    from benchmarks import denoising

    _finish(f"curve_{arguments.run.resolve().name}", denoising.curve(arguments.run), denoising.PACKAGES, arguments.out)
    return 0


def _server(arguments: argparse.Namespace) -> int:
    from benchmarks import servers

    rows = servers.measure(arguments.seconds, arguments.rounds, arguments.clients)
    _finish("server", rows, servers.PACKAGES, arguments.out)
    return 0


def _denoise_server(arguments: argparse.Namespace) -> int:
    from benchmarks import denoise_server
    from skipvit.artifacts import ArtifactError

    try:
        rows = denoise_server.measure(
            arguments.models, arguments.model, arguments.megapixels, arguments.pictures, arguments.largest
        )
    except ArtifactError as error:
        return _fail(str(error))
    _finish("denoise-server", rows, denoise_server.PACKAGES, arguments.out)
    return 0


def _pareto(arguments: argparse.Namespace) -> int:
    from benchmarks import pareto, pareto_chart

    scratch, jobs, rounds = arguments.scratch, arguments.jobs, arguments.rounds
    budgets = {"epochs": arguments.epochs, "steps": arguments.steps}
    rows = pareto.measure(arguments.seeds, scratch, jobs, rounds, **budgets, any_commit=arguments.any_commit)
    path = _finish("pareto", rows, pareto.PACKAGES, arguments.out)
    for picture in pareto_chart.draw(list(rows), path):
        print(f"Written: {picture}")
    return 0


def _gpu(arguments: argparse.Namespace) -> int:
    return gpu_cli.run(arguments)


def _runner(arguments: argparse.Namespace) -> int:
    from benchmarks import runner_overhead

    rows = runner_overhead.measure(arguments.batches, arguments.sides, arguments.rounds)
    _finish("runner", rows, runner_overhead.PACKAGES, arguments.out)
    return 0


def _presets(_: argparse.Namespace) -> int:
    from benchmarks import denoiser_presets, presets
    from benchmarks.rows import print_table

    tables = presets.table(), denoiser_presets.table()
    for rows in tables:
        print_table(list(rows))
        print()
    wrong = [str(row["name"]) for rows in tables for row in rows if row["equal"] != "yes"]
    return _fail(f"counted and closed form differ for {', '.join(wrong)}") if wrong else 0


def _finish(what: str, rows: list[dict[str, object]], packages: Sequence[str], out: Path) -> Path:
    from benchmarks.rows import print_table, write_rows

    path = write_rows(what, rows, packages, out)
    shown: list[Mapping[str, object]] = list(rows)
    print_table(shown)
    print(f"Written: {path}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--out", type=Path, default=results, help="folder of the CSV (default: benchmarks/results)")
    what = parser.add_subparsers(dest="what", required=True)
    _add_engine(what.add_parser("engine", help="ViT and its variants in PyTorch and ONNX Runtime on one core"))
    _add_denoisers(what.add_parser("denoisers", help="Uformer and SkipAt-Uformer on one core"))
    _add_denoising(what.add_parser("denoising", help="trains the demo's denoisers: PSNR beside classical methods"))
    _add_clips(what.add_parser("clips", help="trains the demo's video denoiser: PSNR beside itself frame by frame"))
    curve = what.add_parser("curve", help="PSNR in the course of a training of a denoiser, as CSV")
    curve.add_argument("run", type=Path, help="the training's --out; it need not be finished")
    server = what.add_parser("server", help="ours against plain FastAPI, over HTTP on this machine")
    server.add_argument("--seconds", type=float, default=4.0, help="length of one turn (default: 4)")
    server.add_argument("--rounds", type=whole(1), default=3, help="turns of every candidate (default: 3)")
    server.add_argument("--clients", nargs="+", type=whole(1), default=[1, 32], help="connections (default: 1 32)")
    _add_denoise_server(what.add_parser("denoise-server", help="memory and fairness of denoising, over HTTP"))
    _add_pareto(what.add_parser("pareto", help="trains and converts the demo's models: accuracy against speed"))
    gpu_cli.add_arguments(what.add_parser("gpu", help="our kernels and whole models on an NVIDIA GPU"))
    _add_runner(what.add_parser("runner", help="CPU time of the runner of engines per batch, with a stubbed context"))
    what.add_parser("presets", help="prints parameters and MACs of every preset beside their closed forms")
    proofs.add_parsers(what)
    return parser


def _add_engine(engine: argparse.ArgumentParser) -> None:
    add = engine.add_argument
    add("--sizes", nargs="+", choices=("tiny", "small", "base"), default=["tiny", "small"])
    add("--resolutions", nargs="+", type=whole(1), default=[224], help="in pixels, multiples of 16 (default: 224)")
    add("--batches", nargs="+", type=whole(1), default=[1, 8], help="images a call (default: 1 8)")
    add("--rounds", type=whole(1), default=9, help="turns of every candidate (default: 9)")
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="ratios need vit among them")
    add(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=list(FORMS),
        help="timm is its plain export of the ViT; int8 ours, for CPUs",
    )


def _add_denoisers(denoisers: argparse.ArgumentParser) -> None:
    add = denoisers.add_argument
    add("--sizes", nargs="+", choices=DENOISERS, default=list(DENOISERS), help="of the models (default: all)")
    add("--sides", nargs="+", type=whole(1), default=[128, 256], help="of square tiles, in pixels (default: 128 256)")
    add("--batch", type=whole(1), default=1, help="tiles a call (default: 1)")
    add("--rounds", type=whole(1), default=9, help="turns of every candidate (default: 9)")


def _add_denoise_server(denoise: argparse.ArgumentParser) -> None:
    add = denoise.add_argument
    add("--models", type=Path, default=Path("models"), metavar="FOLDER", help="model repository (default: models)")
    add("--model", metavar="NAME", help="a denoiser of it (default: its first)")
    add("--megapixels", type=float, default=24.0, help="of the large photograph (default: 24)")
    add("--pictures", type=whole(1), default=100, help="of random sizes, one after the other (default: 100)")
    add("--largest", type=whole(16), default=1200, help="longest side of those in pixels (default: 1200)")


def _add_runner(runner: argparse.ArgumentParser) -> None:
    add = runner.add_argument
    add("--batches", nargs="+", type=whole(1), default=[1, 8, 32], help="rows a batch (default: 1 8 32)")
    add("--sides", nargs="+", type=whole(1), default=[32, 224], help="of square pictures, in pixels (default: 32 224)")
    add("--rounds", type=whole(1), default=9, help="of 200 batches each (default: 9)")


def _add_denoising(denoising: argparse.ArgumentParser) -> None:
    add = denoising.add_argument
    add("--seeds", nargs="+", type=int, default=[0], help="every model once with each (default: 0)")
    add("--sigmas", nargs="+", type=float, default=[15.0, 25.0, 50.0], help="noise in 1/255 (default: 15 25 50)")
    add("--scratch", type=Path, default=Path("runs/denoising"), metavar="FOLDER",
        help="keeps finished trainings; the same command goes on from there (default: runs/denoising)")  # fmt: skip


def _add_clips(clips: argparse.ArgumentParser) -> None:
    add = clips.add_argument
    add("--seeds", nargs="+", type=int, default=[0], help="both models once with each (default: 0)")
    add("--sigmas", nargs="+", type=float, default=[30.0], help="noise in 1/255 (default: 30)")
    add("--jobs", type=whole(1), default=1, help="trainings at a time, of one thread each (default: 1)")
    add("--scratch", type=Path, default=Path("runs/clips"), metavar="FOLDER",
        help="keeps finished trainings; the same command goes on from there (default: runs/clips)")  # fmt: skip


def _add_pareto(pareto: argparse.ArgumentParser) -> None:
    add = pareto.add_argument
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="every model once with each (default: 0 1 2)")
    add("--jobs", type=whole(1), default=1, help="trainings at a time, of one thread each (default: 1)")
    add("--rounds", type=whole(1), default=99, help="turns of every candidate for its speed (default: 99)")
    add("--scratch", type=Path, default=Path("runs/pareto"), metavar="FOLDER",
        help="keeps finished trainings; the same command goes on from there (default: runs/pareto)")  # fmt: skip
    add("--any-commit", action="store_true", help="go on from trainings of other commits too; rows say which")
    add("--epochs", type=whole(1), help="of every training, in place of the recipes' own: for a quick try")
    add("--steps", type=whole(1), help="of every conversion, in place of skipvit-convert's own: for a quick try")


def _fail(message: str) -> int:
    print(f"skipvit-bench: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
