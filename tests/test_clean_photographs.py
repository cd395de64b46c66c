"""README's way from nothing to a photograph without noise: every command as it stands, then curl, a client, the page.

One training serves all tests here: `make test` runs the tests of one file in one process (`--dist loadfile`).
"""

import io
import json
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.readme_commands import run_and_served, steps_after
from tests.serve.browser import CHROMIUM, NO_CHROMIUM, chromium, opened

pytestmark = pytest.mark.timeout(1500)
BLOCK = "## Take the noise out of photographs"
# Non-local means reach 31.41 dB on these photographs (measured with scikit-image 0.26, best strength for each).
NON_LOCAL_MEANS = 31.41


@dataclass(frozen=True)
class Demo:
    """A folder in which README's commands have run, and the address at which the last of them serves."""

    folder: Path
    url: str

    @property
    def evaluation(self) -> Path:
        return self.folder / "runs" / "photos_skipat" / "evaluation"

    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.evaluation / "evaluation.json").read_text())
        return content


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("photographs")
    *steps, serve, curl = steps_after(BLOCK)
    assert curl.startswith("curl ")
    with run_and_served(steps, serve, folder) as url:
        yield Demo(folder, url)


def psnr(one: Path | bytes, two: Path) -> float:
    first, second = (
        np.asarray(Image.open(io.BytesIO(p) if isinstance(p, bytes) else p), np.float64) for p in (one, two)
    )
    return float(10 * np.log10(255**2 / np.mean((first - second) ** 2)))


def post(url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{url}/v1/denoise", body, {"Content-Type": "image/png", **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_demo_is_better_than_non_local_means(demo: Demo) -> None:
    (means,) = (block["methods"] for block in demo.report()["means"] if block["sigma"] == 25)
    assert means["model"]["psnr"] >= NON_LOCAL_MEANS
    assert means["non_local_means"]["psnr"] == pytest.approx(NON_LOCAL_MEANS, abs=0.15), "the yardstick itself"
    assert means["noisy"]["psnr"] == pytest.approx(20.72, abs=0.05)


def test_export_proved_parity_in_decibels(demo: Demo) -> None:
    manifest = json.loads((demo.folder / "models/photos_skipat/1/manifest.json").read_text())
    assert [parity["psnr_db"] >= 60 for parity in manifest["parity"]] == [True]
    assert {"sample-astronaut.png", "sample-chelsea.png", "sample-flower.png"} <= set(manifest["samples"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "flower"])
def test_readmes_curl_line_is_as_good_as_the_evaluation(demo: Demo, name: str) -> None:
    """Over HTTP and in tiles nothing is lost of what the evaluation found on the same file."""
    shutil.copy(demo.evaluation / f"{name}_noisy25.png", demo.folder / "noisy.png")
    line = steps_after(BLOCK)[-1].replace("localhost:8000", demo.url)
    subprocess.run(shlex.split(line), cwd=demo.folder, capture_output=True, check=True)
    (methods,) = (row["methods"] for row in demo.report()["results"] if row["image"] == name)
    served = psnr(demo.folder / "clean.png", demo.evaluation / f"{name}.png")
    assert served == pytest.approx(methods["model_on_8_bit_file"]["psnr"], abs=0.1)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_other_formats_on_request(demo: Demo, kind: str) -> None:
    noisy = (demo.evaluation / "chelsea_noisy25.png").read_bytes()
    status, body = post(demo.url, noisy, Accept=f"image/{kind}")
    assert status == 200
    assert Image.open(io.BytesIO(body)).format == kind.upper()
    before = psnr(demo.evaluation / "chelsea_noisy25.png", demo.evaluation / "chelsea.png")
    assert psnr(body, demo.evaluation / "chelsea.png") > before + 7


def test_a_torn_picture_is_refused_in_words(demo: Demo) -> None:
    noisy = (demo.evaluation / "chelsea_noisy25.png").read_bytes()
    status, body = post(demo.url, noisy[: len(noisy) // 2])
    assert status == 400
    assert json.loads(body)["error"]["code"] == "truncated_image"


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.filterwarnings("default")  # the browser driver's own loop, not ours
def test_the_page_shows_before_and_after(demo: Demo) -> None:
    with chromium() as browser, opened(browser, demo.url, "/?model=photos_skipat") as page:
        page.set_default_timeout(120_000)
        page.wait_for_selector("body[data-state=done]")
        before, after = (
            float(text) for text in page.locator('#figures tr[data-figure="PSNR, dB"] td').all_inner_texts()
        )
        assert after > before + 8
        divider = page.locator(".divider").first
        divider.focus()
        was = int(divider.get_attribute("aria-valuenow"))
        page.keyboard.press("ArrowRight")
        assert int(divider.get_attribute("aria-valuenow")) > was
        assert "/v1/denoise" in page.locator("#curl").inner_text()
