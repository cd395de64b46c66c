"""Turns a trained ViT into a faster one, without labels; or makes a checkpoint of weights that others released.

    skipvit-convert runs/digits_vit builtin:digits-and-drawings --spec "static:0-1 skip:4-5 tokens:1/2@2"
    skipvit-convert vit_small_patch16_224 photos/ --weights vit_small.pth --spec "skip:3-8" --minutes 15
    skipvit-convert deit_small_patch16_224 imagenet/val --pretrained --spec "static:0-5 tokens:1/2@3,1/4@6" --steps 2000
    skipvit-convert --from-official skipat-tiny.t7 --out runs/skipat_tiny

MODEL is a checkpoint folder, or timm's name of a plain ViT with --weights or --pretrained. IMAGES is a folder of
pictures, with or without sub-folders, or a data set such as builtin:digits or imagefolder:/data/imagenet. No label is
used to convert; where a data set has the model's classes, accuracy is measured beside fidelity. Every fifth picture of
a folder, or the data set's held-out part, is never learned from, and all figures are of those.

The spec says which block does what: static:0-2 (a fixed attention matrix), skip:4-8 (attention reused through Φ),
tokens:98@3,1/4@6 (fewer tokens from there on); skipvit-analyze proposes one. Static matrices take over the mean
attention of the pictures, then the whole model is taught to answer as the original does. Killed or stopped, a
conversion goes on with --resume as if nothing had happened.

--from-official takes the weights that the authors of SkipAt released, or others that their code wrote. Such a file is
read as plain data, none of its code runs, and a file that holds anything unknown, or lacks anything, is refused.
What comes out is what skipvit-train leaves: give it to skipvit-to-onnx, or to skipvit-evaluate, which needs the labels
that the data has. For ImageNet in folders of that name these are the WordNet ids:

    ls /data/imagenet/train > wnids.txt
    skipvit-convert --from-official skipat-tiny.t7 --out runs/skipat_tiny --labels wnids.txt
    skipvit-evaluate runs/skipat_tiny --data imagefolder:/data/imagenet
"""

import argparse
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
from train.conversion import CONVERSION, ConversionError, Settings, check_out, is_done

_NEEDS = "converting needs {}; run: pip install 'skipvit[train]'"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parse(argv)
    end_by_exception()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep; spinning starves a busy machine
    if problem := why_unwritable(args.out.parent):
        return _fail(f"--out {args.out}: {problem}")
    try:
        return _from_official(args) if args.from_official else _under_spec(args)
    except KeyboardInterrupt:
        print("skipvit-convert: interrupted; nothing was written", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(f"{error.filename or args.out}: {error.strerror or error}; give another --out, or make room")


def _from_official(args: argparse.Namespace) -> int:
    if args.out.exists():
        return _fail(f"{args.out} exists; give another --out, or remove that folder first")
    # torch is slow to load, and --help should neither wait for it nor need it.
    try:
        from train import convert_official
    except ModuleNotFoundError as error:
        return _fail(_NEEDS.format(error.name))
    try:
        convert_official.convert(args.from_official, args.out, args.labels, args.num_heads)
    except convert_official.EXPECTED as error:
        return _fail(error)
    return 0


def _under_spec(args: argparse.Namespace) -> int:
    settings = _settings(args)
    try:
        before = check_out(args.out, settings, args.resume)
    except ConversionError as error:
        return _fail(error)
    if before is not None and is_done(args.out):
        print(f"{args.out} holds the finished conversion")
        return 0
    try:
        from train import convert_spec
    except ModuleNotFoundError as error:
        return _fail(_NEEDS.format(error.name))
    try:
        return convert_spec.convert(settings, args.out, before, args.device)
    except convert_spec.EXPECTED as error:
        return _fail(error)
    except KeyboardInterrupt:
        if not (args.out / CONVERSION).exists():
            raise
        print(f"skipvit-convert: interrupted; {args.out} goes on from its last state with --resume", file=sys.stderr)
        return 130


def _settings(args: argparse.Namespace) -> Settings:
    choices = {
        "phi_kernel_size": args.phi_kernel_size,
        "static_form": args.static_form,
        "static_class_row": args.class_row,
        "pyramid": args.pyramid,
    }
    return Settings(
        model=args.model,
        weights=str(args.weights) if args.weights else None,
        pretrained=args.pretrained,
        model_args=dict(args.model_arg),
        spec=args.spec,
        choices={name: value for name, value in choices.items() if value is not None},
        images=args.images,
        limit=args.limit,
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        minutes=args.minutes,
        augment=args.augment,
        seed=args.seed,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "skipvit-convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a checkpoint folder, or timm's name of a plain ViT")
    add("images", nargs="?", metavar="IMAGES", help="a folder of pictures, or builtin:digits, imagefolder:/path ...")
    add("--spec", help="what each block becomes, e.g. 'static:0-2 skip:4-8 tokens:1/2@3'")
    add("--out", type=Path, metavar="FOLDER", help="the checkpoint to make; runs/<model>_converted unless given")
    add("--resume", action="store_true", help="go on from the conversion's last state, if it has one")
    _add_origin(parser.add_argument_group("the model, where it is given by name"))
    _add_learning(parser.add_argument_group("learning"))
    _add_choices(parser.add_argument_group("how the parts of a spec are made"))
    _add_official(parser.add_argument_group("released weights, in place of MODEL, IMAGES and --spec"))
    args = parser.parse_intermixed_args(argv)
    if args.from_official:
        if args.model or args.spec:
            parser.error("--from-official stands alone: leave MODEL, IMAGES and --spec out")
        if args.out is None:
            parser.error("--from-official needs --out")
    elif not (args.model and args.images and args.spec is not None):
        parser.error("give MODEL, IMAGES and --spec, or --from-official FILE")
    elif args.labels or args.num_heads:
        parser.error("--labels and --num-heads go with --from-official")
    else:
        folder = Path(args.model)
        name = folder.resolve().name if os.path.exists(folder) else args.model.split(".")[0]
        args.out = args.out or Path("runs") / f"{name}_converted"
    return args


def _add_origin(group: Any) -> None:
    add = group.add_argument
    add("--weights", type=Path, metavar="FILE", help=".safetensors, or .pth without pickled code")
    add("--pretrained", action="store_true", help="fetch timm's weights; needs the network")
    add("--model-arg", action="append", type=model_arg, default=[], metavar="KEY=JSON",
        help="argument of the model, e.g. num_classes=10; repeatable")  # fmt: skip


def _add_learning(group: Any) -> None:
    add = group.add_argument
    add("--limit", type=whole(8), default=2048, help="pictures to learn from, at most (default: 2048)")
    add("--steps", type=whole(0), default=400, help="steps of distillation (default: 400); 0 calibrates only")
    add("--minutes", type=_positive_number, default=15.0,
        help="take fewer steps where all would take longer than about this (default: 15)")  # fmt: skip
    add("--batch", type=whole(2), help="pictures a step (default: 64 for pictures of up to 64 pixels, 32 for larger)")
    add("--lr", type=_positive_number, help="learning rate at its peak (default: 0.3 / the model's channels)")
    add("--seed", type=whole(0), default=0)
    add("--augment", choices=("auto", "digits", "photographs", "none"), default="auto",
        help="how pictures are varied; auto: as a digits checkpoint was trained, else as photographs")  # fmt: skip
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_choices(group: Any) -> None:
    add = group.add_argument
    add("--phi-kernel-size", type=_odd, metavar="N", help="of Φ's depthwise convolution (default: 5)")
    add("--static-form", choices=("dense", "factorised"), help="of static matrices (default: dense)")
    add("--class-row", choices=("static", "dynamic"), help="of the class token in static blocks (default: static)")
    add("--pyramid", choices=("static", "content"), help="whether pyramids depend on the picture (default: static)")


def _add_official(group: Any) -> None:
    add = group.add_argument
    add("--from-official", type=Path, metavar="FILE", help="a released file of SkipAt weights, .t7")
    add("--labels", type=Path, metavar="FILE",
        help="class names, one a line; ImageNet's unless given, for 1000 classes")  # fmt: skip
    add("--num-heads", type=whole(1), metavar="N", help="heads of each attention; embed_dim / 64 unless given")


def _odd(text: str) -> int:
    number = whole(1)(text)
    if number % 2 == 0:
        raise argparse.ArgumentTypeError(f"needs an odd number, to keep the grid, got {text!r}")
    return number


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"needs a positive number, got {text!r}")
    return number


def _fail(error: Exception | str) -> int:
    print(f"skipvit-convert: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
