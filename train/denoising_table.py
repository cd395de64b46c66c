"""The figures of a denoiser's evaluation as lines of text."""

from collections.abc import Iterator
from typing import Any

_LABELS = {
    "noisy": "noisy",
    "total_variation": "total variation",
    "non_local_means": "non-local means",
    "model": "model",
    "model_on_8_bit_file": "model, 8-bit file",
}
_FEW = 12


def table(content: dict[str, Any]) -> list[str]:
    """One block of lines for each sigma: PSNR in dB of each picture, where they are few, and means of PSNR and SSIM."""
    options = "".join(f", {text}" for text in _options(content))
    lines = [f"{content['architecture']} on {content['dataset']}{options}; PSNR in dB, of pictures rounded to 8 bits"]
    for block in content["means"]:
        lines += _block(content, block)
    return lines


def _options(content: dict[str, Any]) -> Iterator[str]:
    if content["ensemble"]:
        yield "mean over 8 turns"
    if content["tile"]:
        yield f"tiles of {content['tile']}"


def _block(content: dict[str, Any], block: dict[str, Any]) -> Iterator[str]:
    sigma, means = block["sigma"], block["methods"]
    rows = [row for row in content["results"] if row["sigma"] == sigma]
    rows = rows if len(rows) <= _FEW else []
    names = "".join(f" {row['image'][:10]:>10}" for row in rows)
    head = "own noise" if sigma is None else f"sigma {sigma:g}"
    yield f"  {head:<18}{names} {'mean':>7} {'float':>7} {'SSIM':>7} {'CPU s':>7}"
    for method, label in _LABELS.items():
        if method in means:
            yield _line(label, [row["methods"].get(method, {}).get("psnr") for row in rows], means[method])
    for quoted in content["quoted"]:
        if quoted["sigma"] == sigma:
            # without figures for single pictures
            yield f"  {quoted['method'] + ', quoted':<18}{' ' * 11 * len(rows)} " + _figures(quoted)
    if any(len(row["methods"]) == 1 for row in content["results"]):
        yield "  where pictures are many or large, only the model's figures are of all of them"


def _line(label: str, each: list[float | None], mean: dict[str, float]) -> str:
    numbers = "".join(f" {'-' if psnr is None else format(psnr, '.2f'):>10}" for psnr in each)
    return f"  {label:<18}{numbers} {_figures(mean)}"


def _figures(mean: dict[str, Any]) -> str:
    numbers = ((mean.get(name), form) for name, form in (("psnr", ".2f"), ("psnr_float", ".2f"), ("ssim", ".4f")))
    text = " ".join(f"{'-' if value is None else format(value, form):>7}" for value, form in numbers)
    seconds = mean.get("cpu_seconds")
    return f"{text} {'' if seconds is None else format(seconds, '.1f'):>7}".rstrip()
