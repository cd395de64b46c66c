"""The command ``bench``: pictures as requests, a load, and its figures as a table, a JSON line or a row of CSV."""

import argparse
import asyncio
import csv
import io
import json
import random
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from skipvit.client.address import base_headers, checked_url
from skipvit.client.asynchronous import AsyncClient
from skipvit.client.commands import expand
from skipvit.client.errors import BadInput
from skipvit.client.http_exchange import HttpExchange, request_bytes
from skipvit.client.load import Measurement, Plan, closed_loop, open_loop, percentiles, poisson_arrivals
from skipvit.client.pictures import read_file

_PERCENTS = (50, 90, 95, 99)
# A client this late is busy itself, and its latencies tell of it and not of the server.
_LATE_S = 0.05
_MAX_SIDE = 10_000


async def run(args: argparse.Namespace) -> int:
    """Loads the server and prints what it did; 1 if it answered no request, 130 if the run was ended by Ctrl-C."""
    url = checked_url(args.url)
    pictures = [read_file(path).data for path in expand(args.files)] or [made_up_picture(*args.size)]
    requests = [_request(args, url, picture) for picture in pictures]
    async with AsyncClient(url, api_key=args.api_key, timeout_s=args.timeout, retries=0) as client:
        await client.models()  # a server that is not there is said to be so, before it is measured
    found = await _measure(args, httpx.URL(url), requests)
    row = figures(args, url, found)
    print(json.dumps(row) if args.json else table(row))
    if found.late_s > _LATE_S:
        print(
            f"skipvit-client: this client itself was up to {found.late_s * 1e3:.0f} ms late, which makes latencies "
            "longer; lower --rate, or measure from another machine",
            file=sys.stderr,
        )
    if args.csv:
        _add_row(args.csv, row)
    if found.interrupted:
        print("skipvit-client: ended by Ctrl-C; these are the figures until then", file=sys.stderr)
        return 130
    return 0 if found.latencies_s else 1


def size(text: str) -> tuple[int, int]:
    """A picture's width and height from WxH, for argparse's ``type``."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 1 <= int(side) <= _MAX_SIDE for side in sides):
        raise argparse.ArgumentTypeError(f"needs WxH in pixels such as 640x480, up to {_MAX_SIDE}, got {text!r}")
    return int(sides[0]), int(sides[1])


def made_up_picture(width: int, height: int) -> bytes:
    """A JPEG of smooth colours under fine grain, which is as much work to decode as a photograph; always the same."""
    dice = np.random.default_rng(0)
    coarse = Image.fromarray(dice.integers(0, 256, (9, 12, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = dice.normal(0, 12, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _request(args: argparse.Namespace, url: str, picture: bytes) -> bytes:
    headers = {**base_headers(args.api_key), "Content-Type": "application/octet-stream", "Accept": "*/*"}
    parameters = {"model": args.model} if args.model else None
    return request_bytes(
        httpx.Request("POST", f"{url}/v1/{args.task}", params=parameters, headers=headers, content=picture)
    )


async def _measure(args: argparse.Namespace, url: httpx.URL, requests: list[bytes]) -> Measurement:
    tls = ssl.create_default_context() if url.scheme == "https" else None
    plan = Plan(args.seconds, args.warmup, args.timeout)
    label = f"{args.rate:g} a second" if args.rate else f"{args.clients} clients"
    measured = Measurement()
    with tqdm(desc=label, total=round(args.warmup + args.seconds), unit="s", disable=None, leave=False) as bar:
        ticking = asyncio.create_task(_tick(bar, measured))
        try:
            if args.rate:
                arrivals = poisson_arrivals(args.rate, args.warmup + args.seconds, random.Random(args.seed))
                return await open_loop(lambda: HttpExchange(url, tls), requests, arrivals, plan, into=measured)
            return await closed_loop(lambda: HttpExchange(url, tls), requests, args.clients, plan, measured)
        finally:
            ticking.cancel()


async def _tick(bar: "tqdm[Any]", measured: Measurement) -> None:
    """Moves the bar once a second, with the counts so far beside it."""
    while True:
        await asyncio.sleep(1.0)
        bar.set_postfix(measured.outcomes, refresh=False)
        bar.update()


def figures(args: argparse.Namespace, url: str, found: Measurement) -> dict[str, object]:
    """The run as one flat row, with what was asked for and what came; latencies are of answers with status 200."""
    latencies = found.latencies_s
    shares = dict(zip(_PERCENTS, percentiles(latencies, _PERCENTS), strict=True))

    def ms(seconds: float) -> float | None:
        return round(seconds * 1e3, 3) if latencies else None

    return {
        "url": url,
        "task": args.task,
        "model": args.model or "",
        "loop": "open" if args.rate else "closed",
        "clients": None if args.rate else args.clients,
        "rate": args.rate,
        "seconds": round(found.seconds, 3),
        "requests": found.outcomes.total(),
        "requests_per_s": round(found.requests_per_s, 2),
        **{f"p{percent}_ms": ms(value) for percent, value in shares.items()},
        "max_ms": ms(max(latencies, default=0.0)),
        "outcomes": dict(sorted(found.outcomes.items())),
        "client_late_ms": round(found.late_s * 1e3, 3),
        "interrupted": found.interrupted,
    }


def table(row: dict[str, object]) -> str:
    """The figures for people."""
    clients = "1 client" if row["clients"] == 1 else f"{row['clients']} clients"
    load = f"{row['rate']:g} requests a second" if row["rate"] else clients
    outcomes = row["outcomes"]
    assert isinstance(outcomes, dict)
    lines = [f"{row['task']} at {row['url']}: {row['loop']} loop, {load}, {row['seconds']} s"]
    lines.append(f"  requests    {row['requests']}, of which {row['requests_per_s']} a second were answered")
    latency = [f"{name.removesuffix('_ms')} {row[name]}" for name in row if name[0] == "p" and name.endswith("_ms")]
    if row["max_ms"] is not None:
        lines.append(f"  latency ms  {'  '.join(latency)}  max {row['max_ms']}")
    lines.append(f"  by status   {'  '.join(f'{status}: {count}' for status, count in outcomes.items()) or 'none'}")
    return "\n".join(lines)


def _add_row(path: Path, row: dict[str, object]) -> None:
    """Adds the row to a CSV file, with a header if it is new."""
    flat = {**row, "outcomes": json.dumps(row["outcomes"])}
    try:
        new = not path.exists() or path.stat().st_size == 0
        if not new:
            with path.open(newline="") as file:
                if next(csv.reader(file), []) != list(flat):
                    raise BadInput(f"{path} has other columns", "give another --csv")
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(flat), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(flat)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be written: {error}", "give another --csv") from None
