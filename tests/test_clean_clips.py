"""README's way from nothing to a clip without noise: every command as it stands, then its curl line.

A training of some four minutes of CPU; tests/train and tests/serve try the parts on small ones.
"""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from tests.readme_commands import run_and_served, steps_after

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BLOCK = "## Take the noise out of video"


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(np.float64)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Per frame, then the mean, as the evaluation does."""
    errors = ((one - two) ** 2).mean(axis=(1, 2, 3))  # (T, H, W, 3) -> (T,)
    return float(np.mean(10 * np.log10(255**2 / errors)))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_clip_gains_eight_decibels_through_http(tmp_path: Path) -> None:
    *steps, serve, curl = steps_after(BLOCK)
    gains, served = [], []
    with run_and_served(steps, serve, tmp_path) as url:
        evaluation = tmp_path / "runs" / "pans_skipat" / "evaluation"
        results = json.loads((evaluation / "evaluation.json").read_text())["results"]
        for row in results:
            name = row["sequence"]
            noisy, clean = (frames(evaluation / file) for file in (f"{name}_noisy30.mkv", f"{name}.mkv"))
            shutil.copy(evaluation / f"{name}_noisy30.mkv", tmp_path / "noisy.mp4")
            line = curl.replace("localhost:8000/v1/denoise/video", f"'{url}/v1/denoise/video?sigma=30'")
            line = line.replace("curl ", "curl -f -H 'Accept: video/x-matroska' ")
            subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, check=True)
            after = psnr(frames(tmp_path / "clean.mp4"), clean)
            gains.append(after - psnr(noisy, clean))
            served.append(after - row["methods"]["model_on_8_bit_file"]["psnr"])
    assert np.mean(gains) >= 8
    assert max(map(abs, served)) <= 0.1, "over HTTP and in tiles as good as in the evaluation"
