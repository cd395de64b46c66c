"""Puts the newest results into README: the text between ``<!-- name -->`` and ``<!-- /name -->`` is generated.

python -m benchmarks.readme          write
python -m benchmarks.readme --check  exit 1 if README and results differ
"""

import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.families import EAGER, FAMILIES, INT8, OURS, PLAIN, split_name
from benchmarks.gpu_tables import gpu_table
from benchmarks.proof_table import proofs_table
from benchmarks.rows import newest, read_rows

README = Path(__file__).resolve().parents[1] / "README.md"
_NOT_MEASURED = "not measured"


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
    """Markdown of the engine benchmark: a row a size, resolution and batch; ms of the ViT, then ratios over it."""
    rows = read_rows("engine")
    found = {(*_setting(r), split_name(r["model"])[0], r["form"]): r for r in rows}
    variants = [f for f in FAMILIES if f != "vit" and any(key[3:] == (f, OURS) for key in found)]
    forms = {PLAIN: "ViT, timm export, ms", OURS: "ViT, our export, ms"}
    if any(row["form"] == INT8 for row in rows):
        forms[INT8] = "ViT, our export in int8, ms"
    lines = []
    for setting in dict.fromkeys(map(_setting, rows)):
        vits = {form: found.get((*setting, "vit", form)) for form in forms}
        cells = [_NOT_MEASURED if r is None else f"{float(r['cpu_ms_per_image']):.1f}" for r in vits.values()]
        cells += [_ratio(vits[OURS], found.get((*setting, family, OURS))) for family in variants]
        lines.append(f"| {' | '.join([*setting, *cells])} |")
    names = ["size", "px", "batch", *forms.values(), *(FAMILIES[f] for f in variants)]
    return _table(f"| {' | '.join(names)} |", "|---|" + "--:|" * (len(names) - 1), lines, rows)


def _setting(row: dict[str, str]) -> tuple[str, str, str]:
    return split_name(row["model"])[1], row["resolution_px"], row["batch"]


def _ratio(vit: dict[str, str] | None, variant: dict[str, str] | None) -> str:
    """Speed-up of our export of a variant over our export of the ViT."""
    if vit is None or variant is None:
        return _NOT_MEASURED
    paired = variant.get("speedup_over_vit_same_form")  # results from before the family have no such column
    return f"{float(paired or float(vit['cpu_ms_per_image']) / float(variant['cpu_ms_per_image'])):.2f}"


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


def pareto_table() -> str:
    """Markdown of the pareto benchmark: its picture, and a row a candidate with means over seeds."""
    rows = read_rows("pareto")
    lines = []
    for name in dict.fromkeys(r["candidate"] for r in rows):
        own = [r for r in rows if r["candidate"] == name]
        top1 = [float(r["top1_percent"]) for r in own]
        cpu = statistics.median(float(r["train_cpu_s"]) for r in own)
        r = own[0]
        lines.append(
            f"| {name} | {statistics.mean(top1):.1f} | {min(top1):.1f} to {max(top1):.1f} "
            f"| {float(r['images_per_s_per_core']):.0f} | {float(r['speedup_over_vit']):.2f} | {int(r['params']):,} "
            f"| {float(r['mmacs']):.2f} | {cpu:.0f} |"
        )
    header = (
        "| model | mean top-1 % | over seeds | images/s on one core | speed-up over ViT | parameters | MMACs "
        "| training CPU s |"
    )
    text = _table(header, "|---|" + "--:|" * 7, lines, rows)
    picture = newest("pareto")
    if picture is None:
        return text
    address = picture.with_suffix(".svg").relative_to(README.parent).as_posix()
    return f"![Accuracy against speed of the demo's models]({address})\n\n{text}"


def denoising_table() -> str:
    """Markdown of the denoisers' quality: a row a method and sigma, means over seeds."""
    return _quality_table("denoising", "cpu_s_per_picture", "CPU s/picture")


def clips_table() -> str:
    """Markdown of the video denoisers' quality, likewise."""
    return _quality_table("clips", "cpu_s_per_clip", "CPU s/clip")


def _quality_table(what: str, cost: str, cost_title: str) -> str:
    rows = read_rows(what)
    pictures = [column[5:-3] for column in (rows[0] if rows else {}) if re.fullmatch("psnr_(?!float|of_).+_db", column)]
    keys = dict.fromkeys((float(r["sigma"]), r["method"]) for r in rows)
    lines = []
    for sigma, method in keys:
        own = [r for r in rows if (float(r["sigma"]), r["method"]) == (sigma, method)]
        columns = [f"psnr_{name}_db" for name in pictures] + ["psnr_db", "ssim", cost, "train_cpu_s"]
        digits = [2] * (len(pictures) + 1) + [3, 1, 0]
        cells = [_mean(own, column, places) for column, places in zip(columns, digits, strict=True)]
        lines.append(f"| {sigma:g} | {method} | {' | '.join(cells)} |")
    names = ["sigma", "method", *pictures, "mean PSNR, dB", "SSIM", cost_title, "training CPU s"]
    return _table(f"| {' | '.join(names)} |", "|--:|---|" + "--:|" * (len(names) - 2), lines, rows)


def _mean(rows: list[dict[str, str]], column: str, digits: int) -> str:
    values = [float(row[column]) for row in rows if row[column]]
    return f"{statistics.mean(values):.{digits}f}" if values else ""


def denoisers_table() -> str:
    """Markdown of the denoisers' speed: a row a size and side; images/s of both models in both forms, and ratios."""
    rows = read_rows("denoisers")
    found = {(r["model"], r["form"], r["side_px"]): r for r in rows}
    lines = []
    for size, side in dict.fromkeys((r["model"].rpartition("_")[2], r["side_px"]) for r in rows):
        of = {
            (family, form): found[f"{family}_{size}", form, side]
            for family in ("uformer", "skipat_uformer")
            for form in (EAGER, OURS)
        }
        plain, skipat = of["uformer", OURS], of["skipat_uformer", OURS]
        cells = [_gmacs(plain), _gmacs(skipat)]
        cells += [f"{float(r['images_per_s_per_core']):.3g}" for r in of.values()]
        cells += [
            f"{float(of['skipat_uformer', form]['speedup_over_uformer_same_form']):.2f}" for form in (EAGER, OURS)
        ]
        lines.append(f"| {size} | {side} | {' | '.join(cells)} |")
    header = (
        "| size | px | Uformer GMACs | SkipAt GMACs | Uformer, PyTorch | Uformer, export | SkipAt, PyTorch "
        "| SkipAt, export | SkipAt's gain, PyTorch | SkipAt's gain, export |"
    )
    return _table(header, "|---|" + "--:|" * 9, lines, rows)


def _gmacs(row: dict[str, str]) -> str:
    published = f" ({float(row['published_gmacs']):g})" if row["published_gmacs"] else ""
    return f"{float(row['gmacs']):.3g}{published}"


def _table(header: str, rule: str, lines: list[str], rows: list[dict[str, str]]) -> str:
    if not rows:
        return "Not measured yet."
    r = rows[0]
    rounds = f"; medians of {r['rounds']} rounds" if "rounds" in r else ""
    note = f"{r['machine']}; {r['versions']}; commit {r['commit']}, {r['date']}{rounds}."
    return "\n".join([header, rule, *lines, "", note])


_TABLES = {
    "engine": engine_table,
    "server": server_table,
    "pareto": pareto_table,
    "denoising": denoising_table,
    "clips": clips_table,
    "denoisers": denoisers_table,
    "gpu": gpu_table,
    "proofs": proofs_table,
}


if __name__ == "__main__":
    sys.exit(main())
