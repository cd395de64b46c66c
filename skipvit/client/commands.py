"""The commands that ask: classify, denoise, video, models. Results go to stdout, errors and progress to stderr."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skipvit.client.answers import Classification, ModelInfo, Restored
from skipvit.client.asynchronous import AsyncClient
from skipvit.client.errors import BadInput, ClientError, Unreachable
from skipvit.client.reading import check_output
from skipvit.picture_files import OriginError, pictures_in
from skipvit.publishing import why_unwritable, write_atomically

FORMATS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_SUFFIXES = {".jpeg": "jpeg", ".jpg": "jpeg", ".png": "png", ".webp": "webp"}
_CLIP_TYPES = {".mp4": "video/mp4", ".mkv": "video/x-matroska"}


async def classify(args: argparse.Namespace) -> int:
    """Prints the likeliest classes of each picture, in order; 1 if any failed."""
    files = expand(args.files)
    async with _client(args) as client:
        with tqdm(total=len(files), unit="picture", disable=None, leave=False) as bar:
            results = await client.classify_many(
                files, model=args.model, top_k=args.top_k, concurrency=args.concurrency, done=bar.update
            )
    for line in _json_lines(files, results) if args.json else _table(files, results):
        print(line)
    errors = [(file, error) for file, error in zip(files, results, strict=True) if isinstance(error, ClientError)]
    for line in [] if args.json else _explained(errors):
        print(f"skipvit-client: {line}", file=sys.stderr)
    return 1 if errors else 0


def expand(paths: Iterable[Path]) -> list[Path]:
    """The files, with folders replaced by the pictures in them and below. Raises BadInput for a folder without any."""
    try:
        return [file for path in paths for file in (pictures_in(path) if path.is_dir() else [path])]
    except OriginError as error:
        raise BadInput(str(error)) from None


def _json_lines(files: Sequence[Path], results: Sequence[Classification | ClientError]) -> Iterable[str]:
    for file, result in zip(files, results, strict=True):
        if isinstance(result, ClientError):
            yield json.dumps({"file": str(file), "error": result.as_dict()})
        else:
            yield json.dumps({**result.model_dump(), "file": str(file)})


def _table(files: Sequence[Path], results: Sequence[Classification | ClientError]) -> Iterable[str]:
    width = max(len(str(file)) for file in files)
    for file, result in zip(files, results, strict=True):
        if isinstance(result, Classification):
            found = (f"{prediction.label} {prediction.probability:.1%}" for prediction in result.predictions)
            yield f"{file!s:{width}}  {'  '.join(found)}"


def _explained(errors: Sequence[tuple[Path, ClientError]]) -> Iterable[str]:
    """A line for each error, but one for a server that is gone, however many pictures wanted it."""
    gone = [error for _, error in errors if isinstance(error, Unreachable)]
    yield from (f"{file}: {error}" for file, error in errors if not isinstance(error, Unreachable))
    if gone:
        yield f"{gone[0]} ({len(gone)} not classified)"


async def denoise(args: argparse.Namespace) -> int:
    """Writes each picture without its noise; 1 if any failed."""
    if args.quality is not None and args.quality > 100:
        raise BadInput(f"--quality is {args.quality}, 1 to 100 was needed")
    jobs = _planned(args)
    room = asyncio.Semaphore(args.concurrency)
    errors: list[ClientError] = []
    async with _client(args) as client:
        with tqdm(total=len(jobs), unit="picture", disable=None, leave=False) as bar:

            async def one(source: Path, out: Path, kind: str) -> None:
                async with room:
                    gone = next((error for error in errors if isinstance(error, Unreachable)), None)
                    error = gone or await _denoise_one(client, args, source, out, kind)
                if error is not None:
                    errors.append(error)
                bar.update()

            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(one(*job))
    if any(isinstance(error, Unreachable) for error in errors):
        print(f"skipvit-client: {len(errors)} of {len(jobs)} pictures were not denoised", file=sys.stderr)
    return 1 if errors else 0


def _planned(args: argparse.Namespace) -> list[tuple[Path, Path, str]]:
    """What to read, what to write and of which format, for each picture. Raises BadInput before anything is sent."""
    source, out = args.source, args.out
    if not source.is_dir():
        kind = args.format or ("png" if out.is_dir() else _SUFFIXES.get(out.suffix.lower()))
        if kind is None:
            raise BadInput(f"{out} has no picture's name", f"end it in {', '.join(_SUFFIXES)}, or give --format")
        if out.is_dir():
            out = out / f"{source.stem}.{kind}"
        check_output(out, args.force)
        return [(source, out, kind)]
    kind = args.format or "png"
    if reason := why_unwritable(out):
        raise BadInput(f"--out: {reason}")
    jobs = [(file, (out / file.relative_to(source)).with_suffix(f".{kind}"), kind) for file in expand([source])]
    if len({target for _, target, _ in jobs}) < len(jobs):
        raise BadInput(f"{source} has pictures whose names differ in their endings alone", "rename or separate them")
    for _, target, _ in jobs:
        if target.exists() and not args.force:
            raise BadInput(f"{target} exists", "give another --out, or --force to replace what exists")
    return jobs


async def _denoise_one(
    client: AsyncClient, args: argparse.Namespace, source: Path, out: Path, kind: str
) -> ClientError | None:
    """Denoises a picture and prints a line about it, or the error, which is returned."""
    try:
        clean = await client.denoise(source, model=args.model, accept=FORMATS[kind], quality=args.quality)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            check_output(out, args.force)
            await asyncio.to_thread(write_atomically, out, clean.data)
        except OSError as error:
            raise BadInput(
                f"{out} cannot be written: {error.strerror or error}", "make room, or give another"
            ) from None
    except ClientError as error:
        tqdm.write(f"skipvit-client: {source}: {error}", file=sys.stderr)
        return error
    tqdm.write(f"{out}  {_restored(clean)}")
    return None


async def video(args: argparse.Namespace) -> int:
    """Writes the clip without its noise."""
    kind = _CLIP_TYPES.get(args.out.suffix.lower())
    if kind is None:
        raise BadInput(f"{args.out} has no clip's name", f"end it in {' or '.join(_CLIP_TYPES)}")
    async with _client(args) as client:
        with tqdm(desc=args.source.name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            ticking = asyncio.create_task(_tick(bar))
            try:
                clean = await client.denoise_video(
                    args.source,
                    args.out,
                    model=args.model,
                    sigma=args.sigma,
                    accept=kind,
                    overwrite=args.force,
                    received=bar.update,
                )
            finally:
                ticking.cancel()
    print(f"{args.out}  {_restored(clean)}")
    return 0


async def _tick(bar: "tqdm[Any]") -> None:
    """Keeps the bar's clock going while the server works and sends nothing."""
    while True:
        await asyncio.sleep(0.5)
        bar.refresh()


def _restored(clean: Restored) -> str:
    """What the server says of its work, in a line."""
    parts = [clean.model, f"{clean.tiles} tiles" if clean.tiles else ""]
    parts.append(f"{clean.timing_ms['total'] / 1e3:.2f} s" if "total" in clean.timing_ms else "")
    return "; ".join([*filter(None, parts), *clean.notes])


async def models(args: argparse.Namespace) -> int:
    """Prints every served model."""
    async with _client(args) as client:
        found = await client.models()
    if args.json:
        for model in found:
            print(json.dumps(model.model_dump()))
        return 0
    rows = [("model", "version", "task", "architecture", "classes", "params", "MACs"), *map(_model_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _model_row(model: ModelInfo) -> tuple[str, ...]:
    classes = str(model.classes) if model.classes else "-"
    return (
        model.name, model.version, model.task, model.architecture, classes, _counted(model.params), _counted(model.macs)
    )  # fmt: skip


def _counted(number: int) -> str:
    """A count with three digits: 5717416 is 5.72M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _client(args: argparse.Namespace) -> AsyncClient:
    return AsyncClient(args.url, api_key=args.api_key, timeout_s=args.timeout, retries=args.retries)
