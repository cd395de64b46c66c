"""README's tables of the GPU: there when a result is, honest when none is."""

from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.families import FORMULAS, KERNELS
from benchmarks.gpu_tables import gpu_table
from benchmarks.rows import RESULTS, write_rows

CIRCUMSTANCES = {"device": "A GPU", "driver": "580.1", "cuda": "13.0"}


def model(name: str, form: str, images_per_s: float, speedup: float) -> dict[str, object]:
    return {
        "model": name, "form": form, "resolution_px": 512, "batch": 256, "dtype": "bf16", "images_per_s": images_per_s,
        "speedup_over_vit": speedup, "compile_mode": "default", "rounds": 15, **CIRCUMSTANCES,
    }  # fmt: skip


def kernel(where: str, correct: str) -> dict[str, object]:
    figures = ("gbytes_per_s", "percent_of_copy", "over_eager", "over_compiled", "over_library", "rounds")
    values = dict(zip(figures, (3712.5, 86.4, 5.1, 2.2, 1.4, 15), strict=True)) if correct == "yes" else {}
    row = {"op": "EcaGate", "where": where, "dtype": "bfloat16", "max_error": "2.0e-01", "correct": correct}
    return {**row, **dict.fromkeys(figures, ""), **values, **CIRCUMSTANCES}


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert gpu_table(tmp_path) == "Not measured on a GPU."


def test_models_stand_with_and_without_our_kernels(tmp_path: Path) -> None:
    found = [
        model("vit_small", FORMULAS, 9000.4, 1.0),
        model("skipat_small", KERNELS, 11000, 1.222),
        model("skipat_small", FORMULAS, 8000, 0.889),
    ]
    write_rows("gpu_models", found, (), tmp_path, machine="A GPU", commit="abc")
    text = gpu_table(tmp_path)
    assert "| small | 512 | 256 | bf16 | 9000 | 1.22 (0.89) | - (-) | - (-) | - (-) |" in text
    assert "A GPU, driver 580.1, CUDA 13.0; " in text
    assert "commit abc" in text


def test_a_wrong_kernel_is_shown_as_wrong(tmp_path: Path) -> None:
    found = [kernel("ViT-S 224 px", "yes"), kernel("ViT-B 224 px", "yes"), kernel("ViT-B 512 px", "NO")]
    write_rows("gpu_kernels", found, (), tmp_path, machine="A GPU", commit="abc")
    text = gpu_table(tmp_path)
    assert "| EcaGate | ViT-S 224 px | bfloat16 | 3712.5 | 86.4 | 5.1 | 2.2 | 1.4 |" in text
    assert "ViT-B 224 px" not in text, "the other sizes stand in the CSV"
    assert "| EcaGate | ViT-B 512 px | bfloat16 | wrong by 2.0e-01 |" in text


def test_readme_has_one_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "_TABLES", {"gpu": gpu_table})
    assert readme.fill("a\n<!-- gpu -->\nold\n<!-- /gpu -->\nb") == (
        f"a\n<!-- gpu -->\n{gpu_table(RESULTS)}\n<!-- /gpu -->\nb"
    )
    with pytest.raises(ValueError, match="exactly one <!-- gpu -->"):
        readme.fill("no place")
