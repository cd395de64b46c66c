"""Turns a checkpoint, or a model by name, into a verified entry of a model repository.

The model decides the task. A classifier's graph takes uint8 pictures (batch, height, width, 3) of one size and gives
logits and probabilities; a denoiser's takes them in any size that is a multiple of the model's, and gives clean ones; a
video denoiser's takes clips. Every file is compared with the PyTorch model before it takes its place; a miss exits
non-zero and leaves nothing behind.

    python export/to_onnx.py runs/digits_skipat --out models
    python export/to_onnx.py runs/photos_skipat --tile 256 --halo 16
    python export/to_onnx.py skipat_tiny_patch16_224 --weights tiny.safetensors --precision fp32,fp16

int8 makes a classifier's linear layers faster on CPUs, a ViT-S/16 more than twice as fast as a whole where the CPU has
VNNI; small models gain less. It takes the ranges of activations from pictures such as the model will see, and is kept
only if it names the same class as float32 on 99 of 100 others. Under a name of its own it is a variant that a server
steps down to under load:

    python export/to_onnx.py runs/mine --name mine_int8 --precision int8 --calibration photos --images others
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the repository root, not export/, goes first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from skipvit.arguments import model_arg, whole
from skipvit.artifacts import ArtifactError
from skipvit.interruption import end_by_exception
from skipvit.manifest import Parity

if TYPE_CHECKING:
    from export.job import Job

_PRECISIONS = ("fp32", "fp16", "int8")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = _parser().parse_args(argv)
    end_by_exception()
    try:
        # torch, timm and onnx take seconds to load and are not part of the base install, which --help is.
        from export.entry import Plan, export_entry
        from export.measures import ParityError
        from export.tasks import open_job
        from skipvit.checkpoints import CheckpointError
        from skipvit.picture_files import OriginError
    except ModuleNotFoundError as error:
        print(f"skipvit-to-onnx: {error.name} is not installed; run: pip install 'skipvit[export]'", file=sys.stderr)
        return 1
    try:
        job, default_name = open_job(arguments)
        plan = Plan(
            root=arguments.out,
            name=arguments.name or re.sub(r"[^A-Za-z0-9._-]+", "-", default_name).lstrip("._-"),
            version=arguments.version,
            precisions=tuple(arguments.precision),
            opset=arguments.opset,
            verify=not arguments.no_parity,
        )
        folder, parities = export_entry(job, plan)
    except (ArtifactError, CheckpointError, OriginError, ParityError, ValueError) as error:
        print(f"skipvit-to-onnx: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"skipvit-to-onnx: cannot write {error.filename}: {error.strerror}; give another --out", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skipvit-to-onnx: interrupted; nothing was written", file=sys.stderr)
        return 130
    _report(folder, job, parities)
    return 0


def _report(folder: Path, job: "Job", parities: Sequence[Parity]) -> None:
    if parities:
        print(f"Parity with PyTorch float32, {parities[0].engine}, {parities[0].images_from}")
        rows = [_row(parity) for parity in parities]
        table = [list(rows[0]), *([row[key] for key in rows[0]] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    else:
        print("Parity was not checked: the manifest says so, and nothing vouches for this export.")
    print(f"Written: {folder} ({job.architecture}, weights from {job.weights_from})")
    print(json.dumps({"folder": str(folder), "parity": [p.model_dump() for p in parities]}))


def _row(parity: Parity) -> dict[str, str]:
    """One line of the table, by the names of its columns; each task has figures of its own."""
    cells = {"file": parity.file, "precision": parity.precision}
    if parity.psnr_db is not None:
        cells["PSNR"] = f"{parity.psnr_db:.1f} dB"
    cells |= {
        "max abs": f"{parity.max_abs:.1e}",
        "mean abs": f"{parity.mean_abs:.1e}",
        "relative": f"{parity.max_relative:.1e}",
    }
    if parity.max_levels is not None:
        cells["uint8 max difference"] = str(parity.max_levels)
    if parity.top1_agreement is not None:
        cells["top-1 agreement"] = f"{parity.top1_agreement:.2%}"
    return {**cells, "tolerance": parity.tolerance}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-to-onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="a checkpoint folder, or the name of a model of skipvit or timm")
    add("--out", type=Path, default=Path("models"), help="the model repository to add to (default: models)")
    add("--name", help="the entry's name (default: the checkpoint folder's, or the model's)")
    add("--version", type=whole(1), help="version number (default: one more than the latest)")
    add(
        "--precision",
        type=_precisions,
        default=["fp32"],
        metavar="fp32[,fp16][,int8]",
        help="number formats to write, the server's first choice first (default: fp32)",
    )
    add("--opset", type=int, default=20, choices=(18, 19, 20), help="ONNX opset (default: 20)")
    add("--weights", type=Path, help="weights for a model given by name: .safetensors, or .pth without pickled code")
    add("--pretrained", action="store_true", help="fetch timm's weights for a model given by name; needs the network")
    add(
        "--model-arg",
        action="append",
        type=model_arg,
        default=[],
        metavar="KEY=JSON",
        help="argument of a model given by name, e.g. num_classes=10, img_size=[224,320] or skip=[3,4,5]; repeatable",
    )
    add("--labels", type=Path, help="a classifier's class names, one a line in class order (default: the checkpoint's)")
    add("--images", type=Path, help="folder of pictures to compare on (default: the checkpoint's samples)")
    _add_int8(parser)
    add(
        "--tile",
        type=whole(1),
        metavar="PIXELS",
        help="side of the square tiles in which a denoiser is served, a multiple of the model's (default: about 256)",
    )
    add(
        "--halo",
        type=whole(0),
        metavar="PIXELS",
        help="context around what a denoiser's tile keeps; tiles overlap by twice as much (default: 16)",
    )
    add("--no-parity", action="store_true", help="do not compare; the manifest will hold no parity figures")
    return parser


def _add_int8(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="pictures for int8's ranges, 100 or more, and others than --images (default: every second picture of what "
        "would be compared on)",
    )
    add(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="share of the pictures whose class has to be the same in int8 (default: 0.99)",
    )
    add(
        "--full-range",
        action="store_true",
        help="int8 weights of 8 bits and not 7: a little closer, for CPUs with VNNI alone; on others sums may clip",
    )


def _precisions(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",")]
    wrong = [part for part in chosen if part not in _PRECISIONS]
    if wrong or len(set(chosen)) != len(chosen):
        raise argparse.ArgumentTypeError(f"needs fp32, fp16, int8 or several of them with commas between, got {text!r}")
    return chosen


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"needs a share from 0 to 1 such as 0.99, got {text!r}")
    return share


if __name__ == "__main__":
    sys.exit(main())
