"""The denoising benchmark trains, measures and tabulates what it says; no figure is judged here."""

import json
from pathlib import Path

import pytest

from benchmarks import denoising, readme, rows
from benchmarks.cli import main

ROW = {"seed": "", "psnr_cat_db": 20.0, "psnr_dog_db": 22.0, "psnr_db": 21.0, "psnr_float_db": 21.0, "ssim": 0.3}
TRAINED = {"psnr_of_8_bit_file_db": 20.5, "cpu_s_per_picture": 1.25, "train_wall_s": 60, "train_cpu_s": 100}


def test_a_table_has_means_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained = dict.fromkeys(TRAINED, "")
    written = [{"method": "noisy", "sigma": 25.0, **ROW, **untrained}]
    written += [
        {"method": "Uformer micro", "sigma": 25.0, **ROW, **TRAINED, "seed": seed, "psnr_db": 31.0 + seed}
        for seed in (0, 1)
    ]
    rows.write_rows("denoising", written, ("numpy",), tmp_path)
    monkeypatch.setattr(readme, "read_rows", lambda what: rows.read_rows(what, tmp_path))
    table = readme.denoising_table().splitlines()
    assert table[0] == "| sigma | method | cat | dog | mean PSNR, dB | SSIM | CPU s/picture | training CPU s |"
    assert table[2] == "| 25 | noisy | 20.00 | 22.00 | 21.00 | 0.300 |  |  |"
    assert table[3] == "| 25 | Uformer micro | 20.00 | 22.00 | 31.50 | 0.300 | 1.2 | 100 |"


def test_a_curve_is_what_the_training_wrote(tmp_path: Path) -> None:
    run = tmp_path / "long"
    run.mkdir()
    recipe = {"model": {"name": "m"}, "noise": {"sigma": "25"}, "data": {"patch": 64}, "run": {"batch": 8, "seed": 3}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    lines = [{"step": 10, "loss": 0.1}, {"step": 20, "psnr": 31.0, "psnr_float": 31.01, "ssim": 0.8}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["--out", str(tmp_path), "curve", str(run)]) == 0
    (row,) = rows.read_rows("curve_long", tmp_path)
    assert (row["model"], row["step"], row["psnr_db"], row["seed"]) == ("m", "20", "31.0", "3")
    (run / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(RuntimeError, match="no evaluation of a denoiser"):
        denoising.curve(run)
    assert main(["--out", str(tmp_path), "curve", str(tmp_path)]) == 1


def test_clips_have_a_table_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"psnr_cat_db": 19.6, "psnr_db": 19.6, "psnr_float_db": 19.6, "ssim": 0.38}
    untrained = {"cpu_s_per_clip": "", "train_cpu_s": "", "trained_at": ""}
    rows.write_rows("clips", [{"method": "noisy", "seed": "", "sigma": 30.0, **row, **untrained}], ("numpy",), tmp_path)
    monkeypatch.setattr(readme, "read_rows", lambda what: rows.read_rows(what, tmp_path))
    table = readme.clips_table().splitlines()
    assert table[0] == "| sigma | method | cat | mean PSNR, dB | SSIM | CPU s/clip | training CPU s |"
    assert table[2] == "| 30 | noisy | 19.60 | 19.60 | 0.380 |  |  |"
