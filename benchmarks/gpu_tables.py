"""README's tables of what was measured on a GPU: whole models, then our kernels at ViT-S's shapes and Uformer's."""

from pathlib import Path

from benchmarks.families import FAMILIES, FORMULAS, KERNELS
from benchmarks.rows import RESULTS, read_rows

_NOTHING = "Not measured on a GPU."
_VARIANTS = [family for family in FAMILIES if family != "vit"]


def gpu_table(folder: Path = RESULTS) -> str:
    """Markdown of both tables, or the sentence that nothing was measured."""
    made = [table(read_rows(what, folder)) for what, table in _TABLES.items() if read_rows(what, folder)]
    return "\n\n".join(made) or _NOTHING


def _models(every: list[dict[str, str]]) -> str:
    rows = [row for row in every if row["compile_mode"] == every[0]["compile_mode"]]
    names = ["size", "px", "batch", "dtype", "ViT, images/s", *(FAMILIES[family] for family in _VARIANTS)]
    lines = [f"| {' | '.join(names)} |", "|---|" + "--:|--:|---|" + "--:|" * (1 + len(_VARIANTS))]
    found = {(*_setting(row), row["model"].rpartition("_")[0], row["form"]): row for row in rows}
    for setting in dict.fromkeys(map(_setting, rows)):
        vit = found[(*setting, "vit", FORMULAS)]
        cells = [f"{float(vit['images_per_s']):.0f}"]
        for family in _VARIANTS:
            both = [_speedup(found.get((*setting, family, form))) for form in (KERNELS, FORMULAS)]
            cells.append(f"{both[0]} ({both[1]})")
        lines.append(f"| {' | '.join([*setting, *cells])} |")
    text = (
        "Images/s over those of the ViT with fused attention in the same run, with our kernels, and in brackets "
        f"without them; all under torch.compile (mode {rows[0]['compile_mode']}) and CUDA graphs."
    )
    return "\n".join([text, "", *lines, "", _note(rows)])


def _setting(row: dict[str, str]) -> tuple[str, str, str, str]:
    return row["model"].rpartition("_")[2], row["resolution_px"], row["batch"], row["dtype"]


def _speedup(row: dict[str, str] | None) -> str:
    return "-" if row is None else f"{float(row['speedup_over_vit']):.2f}"


def _kernels(rows: list[dict[str, str]]) -> str:
    lines = [
        "| kernel | at | dtype | GB/s | % of a copy | over eager | over torch.compile | over cuDNN or cuBLAS |",
        "|---|---|---|" + "--:|" * 5,
    ]
    figures = ("gbytes_per_s", "percent_of_copy", "over_eager", "over_compiled", "over_library")
    for row in rows:
        if row["where"].startswith(("ViT-T", "ViT-B")) and row["correct"] == "yes":
            continue
        right = row["correct"] == "yes"
        cells = [row[name] for name in figures] if right else [f"wrong by {row['max_error']}", "", "", "", ""]
        lines.append(f"| {' | '.join([row['op'], row['where'], row['dtype'], *cells])} |")
    text = (
        "Our kernels: bytes read once and written once over time, beside a copy of as many bytes, and how many times "
        "as fast as PyTorch's formula, torch.compile of it, and the best use of the libraries that we know."
    )
    return "\n".join([text, "", *lines, "", _note(rows)])


def _note(rows: list[dict[str, str]]) -> str:
    row = rows[-1]
    commits = ", ".join(dict.fromkeys(r["commit"] for r in rows))
    return (
        f"{row['machine']}, driver {row['driver']}, CUDA {row['cuda']}; {row['versions']}; "
        f"commit {commits}, {row['date']}; medians of {row['rounds'] or rows[0]['rounds']} rounds."
    )


_TABLES = {"gpu_models": _models, "gpu_kernels": _kernels}
