"""README's commands from nothing to a picture answered: run as they stand, then asked real questions.

One training serves all tests here: `make test` runs the tests of one file in one process (`--dist loadfile`).
"""

import concurrent.futures
import json
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipvit.checkpoints import read_samples
from tests.readme_commands import run_and_served, steps_after
from tests.serve.browser import CHROMIUM, NO_CHROMIUM, chromium, draw, opened

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Demo:
    """A folder in which README's commands have run, and the address at which the last of them serves."""

    folder: Path
    url: str
    images: np.ndarray
    labels: np.ndarray

    def png(self, index: int, side: int = 8, inverted: bool = False, kind: str = "png") -> Path:
        """One held-out scan as a picture file."""
        pixels = 255 - self.images[index] if inverted else self.images[index]
        path = self.folder / f"digit_{index}_{side}_{inverted}.{kind}"
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(path)
        return path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    install, *steps, serve, curl = steps_after("Step by step")
    assert install.startswith("pip install")
    assert curl.startswith("curl ")
    with run_and_served(steps, serve, folder) as url:
        samples = read_samples(folder / "runs" / "digits_skipat")
        assert samples is not None
        yield Demo(folder, url, *samples)


def post(url: str, body: bytes, content_type: str = "image/png") -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(f"{url}/v1/classify", body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def top_label(answer: dict[str, object]) -> int:
    return int(answer["results"][0]["predictions"][0]["label"])  # type: ignore[index]


def test_the_demo_reaches_its_gate(demo: Demo) -> None:
    checkpoint = json.loads((demo.folder / "runs/digits_skipat/checkpoint.json").read_text())
    assert checkpoint["evaluation"]["images"] == len(demo.images) == 360
    assert checkpoint["evaluation"]["metrics"]["top1"] >= 0.96


def test_export_proved_parity_on_the_held_out_digits(demo: Demo) -> None:
    manifest = json.loads((demo.folder / "models/digits_skipat/1/manifest.json").read_text())
    assert manifest["parity"][0]["images"] == 360
    assert manifest["parity"][0]["top1_agreement"] == 1.0
    assert manifest["parity"][0]["max_abs"] <= 1e-4


def test_the_served_answers_are_those_of_the_evaluation(demo: Demo) -> None:
    """Over HTTP the model is as right as it was in PyTorch: nothing is lost on the way."""
    checkpoint = json.loads((demo.folder / "runs/digits_skipat/checkpoint.json").read_text())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: post(demo.url, demo.png(i).read_bytes()), range(360)))
    assert {status for status, _ in answers} == {200}
    right = sum(top_label(answer) == label for (_, answer), label in zip(answers, demo.labels, strict=True))
    assert right / 360 == pytest.approx(checkpoint["evaluation"]["metrics"]["top1"], abs=1e-9)


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (224, "jpg"), (28, "webp")])
@pytest.mark.parametrize("inverted", [False, True])
def test_other_sizes_formats_and_black_on_white_are_read(demo: Demo, side: int, kind: str, inverted: bool) -> None:
    right = 0
    for index in range(60):
        status, answer = post(demo.url, demo.png(index, side, inverted, kind).read_bytes(), f"image/{kind}")
        assert status == 200
        right += top_label(answer) == demo.labels[index]
    assert right >= 50


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_readmes_curl_line(demo: Demo) -> None:
    shutil.copy(demo.png(7, 64), demo.folder / "digit.png")
    line = steps_after("Step by step")[-1].replace("localhost:8000", demo.url)
    done = subprocess.run(shlex.split(line), cwd=demo.folder, capture_output=True, text=True, check=True)
    assert top_label(json.loads(done.stdout)) == demo.labels[7]


def test_sixty_four_at_once_with_a_bad_one_among_them(demo: Demo) -> None:
    bodies = [demo.png(i).read_bytes() for i in range(64)]
    bodies[23] = bodies[23][:40]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda body: post(demo.url, body), bodies))
    assert [status for status, _ in answers].count(200) == 63
    assert answers[23][0] == 400
    right = sum(top_label(answers[i][1]) == demo.labels[i] for i in range(64) if i != 23)
    assert right >= 58


# Strokes as a person makes them, in a box of width and height 1, y downwards.
DRAWN = {
    "0": [[(0.5, 0), (0.15, 0.25), (0.12, 0.7), (0.5, 1), (0.85, 0.7), (0.85, 0.25), (0.5, 0)]],
    "1": [[(0.4, 0.15), (0.55, 0), (0.55, 1)]],
    "2": [[(0.1, 0.25), (0.35, 0), (0.75, 0.08), (0.8, 0.35), (0.1, 1), (0.9, 1)]],
    "3": [[(0.15, 0.05), (0.8, 0.05), (0.45, 0.42), (0.85, 0.65), (0.65, 0.98), (0.12, 0.92)]],
    "7": [[(0.1, 0.02), (0.9, 0.02), (0.45, 1)]],
}


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.filterwarnings("default")  # the browser driver's own loop, not ours
def test_a_digit_drawn_on_the_page_is_read(demo: Demo) -> None:
    read = {}
    with chromium() as browser, opened(browser, demo.url) as page:
        page.wait_for_selector("#pad", state="visible")
        for digit, strokes in DRAWN.items():
            page.click("#clear")
            for stroke in strokes:  # each is answered before the next is drawn
                page.evaluate("() => { document.body.dataset.state = 'asked'; }")
                draw(page, [stroke], left=0.3, top=0.15, width=0.4)
                page.wait_for_selector("body[data-state=done]")
            read[digit] = page.locator("#bars li").first.get_attribute("data-label")
        assert page.locator("#bars li").count() == 5
        assert "curl" in page.locator("#curl").inner_text()
    wrong = {digit: label for digit, label in read.items() if digit != label}
    assert len(wrong) <= 1, f"drawn and read differ: {wrong}"
    assert read["0"] == "0"
