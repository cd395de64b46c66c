"""Shows which layers of a trained ViT waste attention, and which spec to take for a target speed.

    skipvit-analyze runs/digits_vit builtin:digits
    skipvit-analyze runs/my_vit photos/ --target 2 --out analysis
    skipvit-analyze deit_small_patch16_224 photos/ --weights deit_small.safetensors
    skipvit-analyze vit_base_patch16_224.augreg_in1k photos/ --pretrained --limit 1000

Writes report.html, one file that opens anywhere, and analysis.json with every number. Nothing is trained: each layer's
attention is replaced in turn, by the layer's before it, by its mean over the pictures, by nothing, or run on fewer
tokens, and what that does to the model's answers is measured. Then combinations are searched, each run as a whole, for
the least change of the answers at the target speed. What the search proposes goes to skipvit-convert, which trains it.

Pictures in sub-folders named like the model's classes give accuracy too; other pictures do without.
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

from skipvit.arguments import model_arg, whole
from skipvit.interruption import end_by_exception
from skipvit.publishing import why_unwritable

JSON, HTML = "analysis.json", "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if problem := why_unwritable(args.out):
        return _fail(f"--out {args.out}: {problem}")
    end_by_exception()
    try:
        return _analyse(args)
    except KeyboardInterrupt:
        print("skipvit-analyze: interrupted; nothing was written", file=sys.stderr)
        return 130


def _analyse(args: argparse.Namespace) -> int:
    # torch is slow to load, and --help should neither wait for it nor need it.
    try:
        from train import analysis, analysis_report
    except ModuleNotFoundError as error:
        return _fail(f"the analysis needs {error.name}; run: pip install 'skipvit[train]'")
    try:
        found = analysis.analyse(
            analysis.Request(
                source=args.model,
                images=args.images,
                weights=args.weights,
                pretrained=args.pretrained,
                model_args=dict(args.model_arg),
                limit=args.limit,
                target=args.target,
                probe_images=args.probe_images,
                device=args.device,
            )
        )
        analysis_report.write(args.out, found)
    except analysis.EXPECTED as error:
        return _fail(error)
    except OSError as error:
        return _fail(f"{error.filename or args.out}: {error.strerror or error}; give another --out, or make room")
    _print(found, args.out)
    return 0


def _print(found: dict[str, Any], out: Path) -> None:
    """Tables for people, then one line of JSON."""
    model, probes, search = found["model"], found["probes"], found["search"]
    print(f"{model['architecture']} ({model['weights_from']}) on {found['pictures']['source']}")
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"\nKL of class probabilities when one layer is changed, {probes['images']} pictures")
    print("  layer " + "".join(f"{name:>12}" for name in probes["costs"]))
    for layer in range(model["depth"]):
        cells = (costs[layer] for costs in probes["costs"].values())
        print(f"  {layer:>5} " + "".join(f"{'-' if cost is None else format(cost['kl'], '.2g'):>12}" for cost in cells))
    line: dict[str, Any] = {"report": str(out / HTML), "analysis": str(out / JSON), "spec": None}
    if search is not None:
        _print_search(search)
        best = search["proposal"]
        line |= {"spec": best["spec"], "predicted_speed": best["predicted_speed"], **best["cost"]}
        line |= {"measured_speed": best["measured_speed"], "reached": search["reached"]}
    run = found["run"]
    line |= {key: run[key] for key in ("seconds", "cpu_seconds", "peak_rss_mib")}
    print(f"report: {out / HTML}")
    print(json.dumps(line))


def _print_search(search: dict[str, Any]) -> None:
    from train.analysis_report import ladder

    print(f"\nBest specs found, {search['evaluations']} tried; speed is predicted, in times the original")
    for point in ladder(search["curve"]):
        cost = point["cost"]
        print(
            f"  {point['predicted_speed']:5.2f}x  KL {cost['kl']:<6.2g}  same top class {cost['agreement']:6.1%}  "
            f"{point['spec'] or '(the original)'}"
        )
    best = search["proposal"]
    print(
        f"\nProposed for {search['target']:g}x: {best['spec'] or '(the original)'}\n"
        f"  predicted {best['predicted_speed']:.2f}x, measured {best['measured_speed']:.2f}x; before any training the "
        f"top class stays for {best['cost']['agreement']:.1%} of the pictures"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-analyze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="a checkpoint folder, or the name of a ViT or DeiT of timm")
    add("images", help="a folder of pictures, or a data set's held-out part, such as builtin:digits")
    add("--out", type=Path, default=Path("analysis"), help="folder for the report (default: analysis)")
    add("--target", type=_speed, default=1.5, help="speed to reach, in times the original's (default: 1.5)")
    add("--limit", type=whole(1), default=384, help="pictures to look at, at most (default: 384)")
    add("--probe-images", type=whole(1), help="pictures of those to probe on (default: as many as two minutes allow)")
    add("--weights", type=Path, help="weights for a model given by name: .safetensors, or .pth without pickled code")
    add("--pretrained", action="store_true", help="fetch timm's weights for a model given by name; needs the network")
    add(
        "--model-arg",
        action="append",
        type=model_arg,
        default=[],
        metavar="KEY=JSON",
        help="argument of a model given by name, e.g. num_classes=10 or img_size=[224,320]; repeatable",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 1.0 < speed <= 20.0:
        raise argparse.ArgumentTypeError(f"needs a number above 1 and up to 20, got {text!r}")
    return speed


def _fail(error: Exception | str) -> int:
    print(f"skipvit-analyze: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
