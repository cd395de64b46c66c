"""skipvit-evaluate of a denoiser: its report, its files, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from skipvit.checkpoints import load_model, read_checkpoint
from skipvit.models import create_model
from tests.train.fake_sidd import write_sidd
from train.classical_denoisers import non_local_means, total_variation
from train.comparison_chart import busiest, comparison_chart
from train.denoising_table import table
from train.evaluate import main
from train.noise import evaluation_noise
from train.picture_quality import quality
from train.run import main as train


@pytest.fixture
def checkpoint(tiny_denoiser: Path, tmp_path: Path) -> Path:
    assert train([str(tiny_denoiser), "--out", str(tmp_path / "run"), "--set", "run.steps=2"]) == 0
    return tmp_path / "run"


def smooth(size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Something that classical methods can make good."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([127 + 100 * np.sin(x / 9 + c) * np.cos(y / 11) for c in range(3)], axis=2).astype(np.uint8)


def test_report_and_pictures_are_written(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(checkpoint), "--sigma", "25,50"]) == 0
    out = checkpoint / "evaluation"
    files = {f"a{end}.png" for end in ("", "_noisy25", "_noisy50", "_compared25", "_compared50")}
    assert {path.name for path in out.iterdir()} == {*files, "evaluation.json"}
    report = json.loads((out / "evaluation.json").read_text())
    trained = read_checkpoint(checkpoint).evaluation
    assert trained is not None
    assert report["metrics"] == pytest.approx(trained.metrics, abs=1e-6)
    assert "7 x 7 uniform window" in report["ssim_definition"]
    assert "not clipped" in report["noise"]
    assert [(row["image"], row["sigma"]) for row in report["results"]] == [("a", 25.0), ("a", 50.0)]
    methods = report["results"][0]["methods"]
    assert set(methods) == {"noisy", "total_variation", "non_local_means", "model", "model_on_8_bit_file"}
    assert report["means"][0]["methods"]["model"]["psnr"] == methods["model"]["psnr"]
    assert report["quoted"] == []
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["psnr"] == report["metrics"]["psnr"]
    assert [line.split()[:2] for line in printed if line.startswith("  sigma")] == [["sigma", "25"], ["sigma", "50"]]
    with Image.open(out / "a_compared25.png") as picture:
        assert picture.width > 1200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_the_files_give_the_figures_that_are_reported(checkpoint: Path) -> None:
    assert main([str(checkpoint)]) == 0
    out = checkpoint / "evaluation"
    methods = json.loads((out / "evaluation.json").read_text())["results"][0]["methods"]
    clean, noisy = (np.asarray(Image.open(out / f"a{end}.png")) for end in ("", "_noisy25"))
    assert peak_signal_noise_ratio(clean, noisy) == pytest.approx(methods["noisy"]["psnr"], abs=1e-9)
    x = torch.from_numpy(noisy.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        y = load_model(checkpoint)[0](x).clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    assert peak_signal_noise_ratio(clean, y) == pytest.approx(methods["model_on_8_bit_file"]["psnr"], abs=0.01)


def test_ensemble_and_tiles_are_taken(checkpoint: Path, tmp_path: Path, picture: object) -> None:
    found = {}
    for name, options in (("plain", []), ("ensemble", ["--ensemble"]), ("tiles", ["--tile", "64"])):
        assert main([str(checkpoint), "--out", str(tmp_path / name), *options]) == 0
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    assert found["ensemble"]["ensemble"]
    assert found["tiles"]["tile"] == 64
    assert len({report["metrics"]["psnr_float"] for report in found.values()}) == 3


def test_pairs_without_noise_are_measured(checkpoint: Path, tmp_path: Path, picture: Callable[..., Path]) -> None:
    for part in ("noisy", "clean"):
        for name in "ab":
            picture(tmp_path / "same" / part / f"{name}.png")
    assert main([str(checkpoint), "--data", f"pairs:{tmp_path / 'same'}", "--out", str(tmp_path / "out")]) == 0
    methods = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"][0]["methods"]
    assert [methods[name]["psnr"] for name in ("noisy", "total_variation", "non_local_means")] == [200.0] * 3


def test_pictures_too_large_for_classical_methods_have_the_models_figures_alone(
    checkpoint: Path, tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("train/c", (40, 32)), ("val/a", (50, 60)), ("val/b", (40, 32))):
        picture(tmp_path / "own" / f"{name}.png", size=size)
    monkeypatch.setattr("train.measure_denoiser._COMPARED_PIXELS", 40 * 32)
    out = tmp_path / "out"
    assert main([str(checkpoint), "--data", f"gaussian:{tmp_path / 'own'}", "--sigma", "15,25", "--out", str(out)]) == 0
    report = json.loads((out / "evaluation.json").read_text())
    assert [len(row["methods"]) for row in report["results"]] == [1, 1, 5, 5]
    assert {path.stem[0] for path in out.glob("*.png")} == {"b"}
    lines = table(report)
    assert [line.split()[1] for line in lines if line.startswith("  noisy")] == ["-", "-"]
    assert sum("many or large" in line for line in lines) == 2


def test_pairs_are_measured_with_their_own_noise(checkpoint: Path, tmp_path: Path) -> None:
    uri = f"sidd:{write_sidd(tmp_path / 'sidd')}"
    assert main([str(checkpoint), "--data", uri, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["noise"] == "the pictures' own"
    assert len(report["results"]) == 6
    assert (tmp_path / "out" / "0001_02_noisy.png").exists()
    assert main([str(checkpoint), "--data", uri, "--sigma", "25"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile", "48"], "--tile 48 cannot be used: tiles must be a multiple of the model's 32 pixels"),
        (["--data", "builtin:digits"], "names no pictures to denoise"),
        (["--data", "gaussian:/nowhere"], "there is no such folder"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(checkpoint), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (checkpoint / "evaluation").exists()


@pytest.mark.parametrize("sigma", ["", "loud", "0", "-5", "300", "nan", "25,,50"])
def test_sigmas_that_are_none_are_refused(sigma: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", f"--sigma={sigma}"])
    assert "needs numbers from 0 to 255 such as 15,25,50" in capsys.readouterr().err


def test_classifier_refuses_a_denoisers_options(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train([str(tiny), "--out", str(tmp_path / "run"), "--set", "run.steps=1"]) == 0
    assert main([str(tmp_path / "run"), "--sigma", "25"]) == 1
    assert "--frames and --beside are for denoisers; leave them out" in capsys.readouterr().err


def test_classical_methods_are_better_than_nothing_and_at_their_best() -> None:
    clean = smooth()
    noisy = evaluation_noise(clean.astype(np.float32) / np.float32(255), 25, "smooth")
    before = quality(noisy, clean).psnr
    for method in (total_variation, non_local_means):
        best = method(noisy, clean, 25 / 255)
        assert best.picture.dtype == np.float32
        assert quality(best.picture, clean).psnr > before + 4


def test_enlarged_is_the_part_with_most_detail() -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[110:170, 210:270] = np.random.default_rng(0).integers(0, 256, (60, 60, 3))
    top, left, side = busiest(picture, 64)
    assert side == 64
    assert 90 <= top <= 120
    assert 190 <= left <= 220
    assert busiest(picture[:20, :30], 64)[2] == 20


def test_chart_of_a_tall_picture_has_the_size_of_a_page(tmp_path: Path) -> None:
    strip = np.zeros((3000, 8, 3), np.uint8)  # at its own shape, 130,000 pixels high
    comparison_chart(tmp_path / "chart.png", {"noisy": strip, "clean": strip}, strip, strip, "strip")
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.height < 2000


def test_released_weights_are_measured_under_a_models_name(
    tmp_path: Path, picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "own" / f"{name}.png")
    model = create_model("uformer_micro").eval()
    torch.nn.init.normal_(model.output_proj.proj[0].weight, std=0.01)  # type: ignore[union-attr, index, arg-type]
    released = {"epoch": 250, "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}
    torch.save(released, tmp_path / "U.pth")
    out, own = tmp_path / "out", ["--data", f"gaussian:{tmp_path / 'own'}"]
    assert main(["uformer_micro", "--weights", str(tmp_path / "U.pth"), *own, "--out", str(out)]) == 0
    report = json.loads((out / "evaluation.json").read_text())
    assert (report["architecture"], report["weights"]) == ("uformer_micro", "file U.pth")
    clean, noisy = (np.asarray(Image.open(out / f"a{end}.png")) for end in ("", "_noisy25"))
    with torch.no_grad():
        y = model(torch.from_numpy(noisy.copy()).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0).numpy()
    found = report["results"][0]["methods"]["model_on_8_bit_file"]["psnr"]
    assert found == pytest.approx(quality(y, clean).psnr, abs=0.01)
    for arguments, message in (
        (["uformer_micro", "--weights", "nowhere.pth", *own], "nowhere.pth is not there"),
        (["uformer_tiny", "--weights", str(tmp_path / "U.pth"), *own], "give the model"),
        (["uformer_micro", "--weights", str(tmp_path / "U.pth")], "give --data"),
        (["vit_tiny_patch16_224", "--weights", str(tmp_path / "U.pth"), *own], "the name of a denoiser"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


def test_table_of_many_pictures_has_means_alone_and_quotes_what_is_known() -> None:
    figures = {"psnr": 32.094, "psnr_float": 32.1, "ssim": 0.8794, "cpu_seconds": 1.26}
    content = {
        "architecture": "m", "dataset": "d", "ensemble": False, "tile": None,
        "results": [{"image": f"{i}", "sigma": 25.0, "methods": {"model": figures}} for i in range(13)],
        "means": [{"sigma": 25.0, "methods": {"model": figures}}],
        "quoted": [{"method": "BM3D", "sigma": 25.0, "psnr": 33.28, "ssim": 0.905}],
    }  # fmt: skip
    lines = table(content)
    assert lines[2].split() == ["model", "32.09", "32.10", "0.8794", "1.3"]
    assert lines[3].split() == ["BM3D,", "quoted", "33.28", "-", "0.9050"]
    content["results"] = content["results"][:2]  # type: ignore[index]
    assert table(content)[2].split() == ["model", "32.09", "32.09", "32.09", "32.10", "0.8794", "1.3"]


def test_bm3d_is_quoted_for_the_builtin_photographs_at_its_sigmas_only(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.measure_denoiser import _quoted
    from train.photographs import open_photographs

    data = open_photographs("builtin:photos")
    assert [(q["method"], q["psnr"]) for q in _quoted(data, (25.0, 30.0, 50.0))] == [("BM3D", 33.28), ("BM3D", 29.99)]
    assert _quoted(open_photographs(f"gaussian:{tmp_path / 'clean'}"), (25.0,)) == []
