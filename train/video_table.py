"""The figures of a video denoiser's evaluation as lines of text."""

from collections.abc import Iterator
from typing import Any

_LABELS = {
    "noisy": "noisy",
    "beside": "other checkpoint",
    "model": "model",
    "model_on_8_bit_file": "model, 8-bit file",
}
_FEW = 8


def table(content: dict[str, Any]) -> list[str]:
    """A block for each sigma: PSNR in dB of each sequence, where they are few, and means of PSNR and SSIM."""
    cut = f", first {content['first_frames']} frames" if content["first_frames"] else ""
    lines = [f"{content['architecture']} on {content['dataset']}{cut}; PSNR in dB, of frames rounded to 8 bits"]
    for block in content["means"]:
        lines += _block(content, block)
    return lines


def _block(content: dict[str, Any], block: dict[str, Any]) -> Iterator[str]:
    rows = [row for row in content["results"] if row["sigma"] == block["sigma"]]
    rows = rows if len(rows) <= _FEW else []
    names = "".join(f" {row['sequence'][:10]:>10}" for row in rows)
    sigma = f"sigma {block['sigma']:g}"
    yield f"  {sigma:<18}{names} {'mean':>7} {'float':>7} {'SSIM':>7} {'CPU s':>7}"
    for method, label in _LABELS.items():
        if method in block["methods"]:
            each = "".join(f" {row['methods'][method]['psnr']:>10.2f}" for row in rows)
            yield f"  {label:<18}{each} {_figures(block['methods'][method])}"


def _figures(mean: dict[str, float]) -> str:
    seconds = mean.get("cpu_seconds")
    figures = f"{mean['psnr']:>7.2f} {mean['psnr_float']:>7.2f} {mean['ssim']:>7.4f}"
    return figures if seconds is None else f"{figures} {seconds:>7.2f}"
