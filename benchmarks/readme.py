"""Puts the newest results into README: the text between ``<!-- name -->`` and ``<!-- /name -->`` is generated.

python -m benchmarks.readme          write
python -m benchmarks.readme --check  exit 1 if README and results differ
"""

import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import read_rows

README = Path(__file__).resolve().parents[1] / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    check = "--check" in (sys.argv[1:] if argv is None else argv)
    text = README.read_text(encoding="utf-8")
    new = fill(text)
    if check and new != text:
        print("README and benchmarks/results differ; run `make readme` and commit the result", file=sys.stderr)
        return 1
    if not check:
        README.write_text(new, encoding="utf-8")
    return 0


def fill(text: str) -> str:
    """README with its generated parts made anew."""
    for name, make in _TABLES.items():
        found = re.findall(f"<!-- {name} -->.*?<!-- /{name} -->", text, flags=re.DOTALL)
        if len(found) != 1:
            raise ValueError(f"README needs exactly one <!-- {name} --> ... <!-- /{name} --> pair, it has {len(found)}")
        text = text.replace(found[0], f"<!-- {name} -->\n{make()}\n<!-- /{name} -->")
    return text


def engine_table() -> str:
    """Markdown of the engine benchmark: a row a size, resolution and batch; CPU ms an image, and two ratios."""
    rows = read_rows("engine")
    settings = dict.fromkeys((_size(r), r["resolution_px"], r["batch"]) for r in rows)
    lines = []
    for size, px, batch in settings:
        own = {
            (r["model"].split("_")[0], r["form"]): r
            for r in rows
            if (_size(r), r["resolution_px"], r["batch"]) == (size, px, batch)
        }
        ms = {key: float(r["cpu_ms_per_image"]) for key, r in own.items()}
        ours, skipping = ("vit", "skipvit export"), ("skipat", "skipvit export")
        shown = [ms["vit", "PyTorch"], ms["vit", "timm export"], ms[ours], ms["skipat", "PyTorch"], ms[skipping]]
        cells = [f"{value:.1f}" for value in shown]
        cells += [own[ours]["speedup_over_timm_export"], f"{ms[ours] / ms[skipping]:.2f}"]
        lines.append(f"| {size} | {px} | {batch} | {' | '.join(cells)} |")
    header = (
        "| size | px | batch | ViT, PyTorch | ViT, timm export | ViT, our export | SkipAt, PyTorch "
        "| SkipAt, our export | our export over timm's, ViT | SkipAt over ViT, our export |"
    )
    return _table(header, "|---|" + "--:|" * 9, lines, rows)


def _size(row: dict[str, str]) -> str:
    return row["model"].split("_")[1]


def server_table() -> str:
    """Markdown of the server benchmark."""
    rows = read_rows("server")
    header = "| server | clients | p50 ms | p99 ms | requests/s | CPU ms/request | RSS MB | failures |"
    lines = [
        f"| {r['server']} | {r['clients']} | {float(r['p50_ms']):.1f} | {float(r['p99_ms']):.1f} "
        f"| {float(r['requests_per_s']):.0f} | {float(r['cpu_ms_per_request']):.2f} | {r['rss_mb']} | {r['failures']} |"
        for r in rows
    ]
    return _table(header, "|---|--:|--:|--:|--:|--:|--:|--:|", lines, rows)


def accuracy_table() -> str:
    """Markdown of the accuracy benchmark: a row a model, a column a seed."""
    rows = read_rows("accuracy")
    models = sorted({r["model"] for r in rows}, reverse=True)
    seeds = sorted({r["seed"] for r in rows}, key=int)
    lines = []
    for model in models:
        own = {r["seed"]: r for r in rows if r["model"] == model}
        top1 = [float(own[seed]["top1_percent"]) for seed in seeds]
        cpu = statistics.median(float(r["train_cpu_s"]) for r in own.values())
        cells = [f"{value:.1f}" for value in [*top1, statistics.mean(top1)]]
        lines.append(f"| {model} | {' | '.join(cells)} | {cpu:.0f} |")
    header = "| model | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean top-1 % | training CPU s |"
    return _table(header, "|---|" + "--:|" * (len(seeds) + 2), lines, rows)


def _table(header: str, rule: str, lines: list[str], rows: list[dict[str, str]]) -> str:
    if not rows:
        return "Not measured yet."
    r = rows[0]
    rounds = f"; medians of {r['rounds']} rounds" if "rounds" in r else ""
    note = f"{r['machine']}; {r['versions']}; commit {r['commit']}, {r['date']}{rounds}."
    return "\n".join([header, rule, *lines, "", note])


_TABLES = {"engine": engine_table, "server": server_table, "accuracy": accuracy_table}


if __name__ == "__main__":
    sys.exit(main())
