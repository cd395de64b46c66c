"""Writes an analysis: analysis.json with every number, and report.html, one file that shows and explains them.

analysis.json, all times in seconds an image, blocks counted from 0, L blocks, h heads:

    schema_version   1
    notes            sentences that a reader must know first
    model            source, architecture, weights_from, depth, heads, grid [rows, columns], prefix_tokens, class_token,
                     global_pool, parameters, macs
    pictures         source, images, accuracy (top-1 of the model; null without labels)
    statistics       images, rank_images; L x L: cka, output_cosine, map_cosine, class_cosine; L x h: similarity,
                     centred_similarity, deviation, entropy_rank, stable_rank; see `train/attention_statistics.py`
    probes           images, accuracy, costs {probe: [cost or null a block]}; a cost is kl, agreement, cosine, accuracy,
                     accuracy_change, see `train/probes.py`
    block_times      clock, batch, embed, head, blocks [{kind, grid, seconds}], pyramids [{before, after, seconds}]
    search           target, reached, evaluations, images, curve [{spec, predicted_speed, cost}], proposal {the same,
                     and other_images, cost_on_other_images, measured_speed, seconds {original, proposal}}
    command          what converts the model to the proposed spec; null without one
    run              commit, versions, machine, device, threads, seconds, cpu_seconds, peak_rss_mib

block_times, search and command are null where the model family cannot take over the ViT.
"""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from skipvit.publishing import write_atomically
from train import report_text as text
from train.report_charts import Point, bar_table, curve, heat_map, table

JSON, HTML = "analysis.json", "report.html"
_STYLE = Path(__file__).with_name("analysis_report.css")
_LEAST_KL = 1e-4  # nats: where the logarithmic bars begin
_HEADS = {"static": "static", "reuse": "reuse", "drop": "drop", "tokens 1/2": "½ tokens", "tokens 1/4": "¼ tokens"}
Json = Mapping[str, Any]


def write(out: Path, found: Json) -> None:
    """Writes both files into ``out``, each complete or not at all, the page last."""
    page = render(found)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / JSON, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(out / HTML, page)


def render(found: Json) -> str:
    """The page."""
    model, pictures, run = found["model"], found["pictures"], found["run"]
    accuracy = "" if pictures["accuracy"] is None else f", top-1 {pictures['accuracy']:.1%}"
    about = (
        f"{model['weights_from']} · {model['depth']} blocks, {model['heads']} heads, "
        f"{model['grid'][0]} x {model['grid'][1]} patches · {pictures['source']}{accuracy}"
    )
    sections = [
        _proposal(found),
        _section("What each block's attention is worth", text.PROBES, _probe_table(found["probes"])),
        _section("Attention across pictures, and its rank", text.ACROSS, _statistics_table(found["statistics"])),
        _section("How alike the layers are", text.LAYERS, _heat_maps(found["statistics"])),
        "" if found["block_times"] is None else _section("Time of a block", text.TIMES, _times(found["block_times"])),
        _section("How this was made", text.HONESTY, _run(run)),
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in found["notes"])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(model["architecture"])}: attention</title>'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f"<header><h1>{escape(model['architecture'])}</h1><p>{escape(about)}</p></header>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "".join(sections)
        + "</main></body></html>\n"
    )


def _section(title: str, words: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{words}</p>{body}</section>"


def _proposal(found: Json) -> str:
    search = found["search"]
    if search is None:
        return ""
    best = search["proposal"]
    cost, others = best["cost"], best["cost_on_other_images"]
    figures = [
        (f"{best['predicted_speed']:.2f}x", f"predicted speed, target {search['target']:g}x"),
        (f"{best['measured_speed']:.2f}x", "measured, the whole model beside the original"),
        (f"{cost['agreement']:.1%}", f"of {search['images']} pictures keep their top class, untrained"),
    ]
    if others is not None:
        figures.append((f"{others['agreement']:.1%}", f"of {best['other_images']} pictures the search did not see"))
    cards = "".join(f"<div><b>{escape(value)}</b><span>{escape(of)}</span></div>" for value, of in figures)
    command = found["command"]
    copy = f'<pre tabindex="0"><code>{escape(command)}</code></pre>' if command else ""
    rungs = [
        (
            f"{point['predicted_speed']:.2f}x",
            _kl(point["cost"]["kl"]),
            f"{point['cost']['agreement']:.1%}",
            *([] if point["cost"]["accuracy"] is None else [f"{point['cost']['accuracy']:.1%}"]),
            point["spec"] or "the original",
        )
        for point in ladder(search["curve"])
    ]
    head = ["speed", "KL", "same top class", *([] if cost["accuracy"] is None else ["top-1"]), "spec"]
    return (
        f'<section class="proposal"><h2>Proposed: <code>{escape(best["spec"]) or "the original"}</code></h2>'
        f'<div class="cards">{cards}</div>{copy}<p>{text.PROPOSAL}</p></section>'
        + _section("What speed costs", text.CURVE, _curves(search) + table(head, rungs))
    )


def ladder(points: Sequence[Json], step: float = 0.1) -> list[Json]:
    """Of a curve, slowest first, the cheapest point that reaches 1, 1.1, 1.2 ... times the original's speed."""
    rungs: list[Json] = []
    for number in range(math.ceil((points[-1]["predicted_speed"] - 1) / step) + 1):
        reaching = [p for p in points if p["predicted_speed"] >= 1 + number * step - 1e-9]
        if reaching and reaching[0] not in rungs:
            rungs.append(reaching[0])
    return rungs


def _curves(search: Json) -> str:
    proposed = search["proposal"]["spec"]

    def points(of: str, scale: float) -> list[Point]:
        return [
            Point(
                p["predicted_speed"],
                p["cost"][of] * scale,
                f"{p['spec'] or 'the original'}: {p['predicted_speed']:.2f}x, KL {_kl(p['cost']['kl'])}, "
                f"same top class {p['cost']['agreement']:.1%}",
                p["spec"] == proposed,
            )
            for p in search["curve"]
        ]

    at = search["target"]
    small = max(p["cost"]["kl"] for p in search["curve"]) < 0.01
    scale, unit = (1000, "KL, thousandths of a nat") if small else (1, "KL, nats")
    kl = curve("KL against speed", points("kl", scale), "predicted speed", unit, line_at=at, top=None)
    same = curve("Same top class against speed", points("agreement", 100), "predicted speed", "same top class, %",
                 line_at=at, top=100)  # fmt: skip
    return f'<div class="figures"><figure>{kl}</figure><figure>{same}</figure></div>'


def _probe_table(probes: Json) -> str:
    costs = probes["costs"]
    worst = max(cost["kl"] for layers in costs.values() for cost in layers if cost is not None)
    decades = max(1.0, math.log10(max(worst, _LEAST_KL) / _LEAST_KL))

    def cell(cost: Json | None, what: str) -> tuple[str, float, str] | None:
        if cost is None:
            return None
        change = "" if cost["accuracy_change"] is None else f", top-1 {cost['accuracy_change']:+.1%}"
        note = f"{what}: same top class {cost['agreement']:.1%}, cosine of logits {cost['cosine']:.3f}{change}"
        return _kl(cost["kl"]), math.log10(max(cost["kl"], _LEAST_KL) / _LEAST_KL) / decades, note

    depth = len(costs["static"])
    rows = [
        (f"block {i}", [cell(layers[i], f"{name} in block {i}") for name, layers in costs.items()])
        for i in range(depth)
    ]
    return bar_table(["", *(_HEADS[name] for name in costs)], rows)


def _statistics_table(statistics: Json) -> str:
    columns = [
        ("likeness", "similarity", 1.0, "{:.2f}"),
        ("centred", "centred_similarity", 1.0, "{:.2f}"),
        ("spread", "deviation", None, "{:.2f}"),
        ("entropy rank", "entropy_rank", None, "{:.1f}"),
        ("stable rank", "stable_rank", None, "{:.1f}"),
    ]
    shown = [(name, statistics[key], top, form) for name, key, top, form in columns if statistics[key] is not None]
    means = {name: [sum(heads) / len(heads) for heads in values] for name, values, _, _ in shown}
    rows = []
    for layer in range(len(statistics["deviation"])):
        cells = []
        for name, values, top, form in shown:
            heads = ", ".join(form.format(value) for value in values[layer])
            length = means[name][layer] / (top or max(means[name]) or 1.0)
            cells.append((form.format(means[name][layer]), length, f"{name} of each head: {heads}"))
        rows.append((f"block {layer}", cells))
    return bar_table(["", *(name for name, *_ in shown)], rows)


def _heat_maps(statistics: Json) -> str:
    wanted = [
        ("Attention output, CKA", "cka"),
        ("Attention output, cosine", "output_cosine"),
        ("Attention map, cosine", "map_cosine"),
        ("Class token's attention, cosine", "class_cosine"),
    ]
    figures = [
        f"<figure><figcaption>{escape(title)}</figcaption>{heat_map(title, statistics[key], 0.0)}</figure>"
        for title, key in wanted
        if statistics[key] is not None
    ]
    return f'<div class="figures">{"".join(figures)}</div>'


def _times(times: Json) -> str:
    base = next(b["seconds"] for b in times["blocks"] if b["kind"] == "dynamic")
    names = {"dynamic": "attention", "static": "static", "skip": "skip (Φ)"}
    rows = [
        (f"{names[b['kind']]}, {_grid(b['grid'])}", f"{b['seconds'] * 1e3:.3f} ms", f"{b['seconds'] / base:.0%}")
        for b in times["blocks"]
    ]
    rows += [
        (f"pyramid, {_grid(p['before'])} to {_grid(p['after'])}", f"{p['seconds'] * 1e3:.3f} ms",
         f"{p['seconds'] / base:.0%}")
        for p in times["pyramids"]
    ]  # fmt: skip
    rows += [
        (f"{name}, once", f"{times[key] * 1e3:.3f} ms", f"{times[key] / base:.0%}")
        for name, key in (("embedding", "embed"), ("head", "head"))
    ]
    measured = f"<p>{escape(times['clock'])}, batches of {times['batch']}, float32, eager PyTorch.</p>"
    return table(["piece and patch grid", "an image", "of a block"], rows) + measured


def _kl(value: float) -> str:
    """Three decimals, or what is left of a small number: 0.123, 4e-5, 0."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def _grid(grid: Sequence[int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _run(run: Json) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    line = (
        f"{run['machine']}, {run['device']}, {run['threads']} threads · {run['seconds']:.0f} s, "
        f"{run['cpu_seconds']:.0f} s of CPU, {run['peak_rss_mib']} MiB at most · commit {run['commit']} · {versions}"
    )
    return f"<p>{escape(line)}</p>"
