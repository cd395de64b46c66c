"""The benchmark of memory and fairness runs against a real server, and says what is missing where it cannot."""

import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import denoise_server, rows
from benchmarks.cli import main
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import write_model


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory ever held is read from /proc")
def test_a_row_from_a_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    write_model(models, "a-classifier")
    write_denoiser(models)
    sizes = ["--megapixels", "0.5", "--pictures", "12", "--largest", "80"]
    assert main(["--out", str(tmp_path), "denoise-server", "--models", str(models), *sizes]) == 0
    [row] = rows.read_rows("denoise-server", tmp_path)
    assert (row["model"], row["tile"], row["megapixels"], row["pictures"]) == ("clean", "64", "0.5", "12")
    assert int(row["tiles"]) > 100
    assert int(row["peak_rss_mb"]) >= int(row["warm_rss_mb"]) > 20
    assert int(row["rss_highest_after_10_mb"]) >= int(row["rss_after_10_mb"])
    assert float(row["slowdown_worst"]) >= float(row["slowdown_p50"]) > 0
    assert "peak_rss_mb" in capsys.readouterr().out


def test_a_folder_without_a_denoiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path)
    assert main(["denoise-server", "--models", str(tmp_path)]) == 1
    assert "holds no denoiser" in capsys.readouterr().err
    assert main(["denoise-server", "--models", str(tmp_path / "nowhere")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_the_photograph_is_the_same_every_time() -> None:
    data = denoise_server.photograph(300, 200)
    assert Image.open(BytesIO(data)).size == (300, 200)
    assert data == denoise_server.photograph(300, 200)
    assert data != denoise_server.photograph(300, 200, seed=1)
