"""The page in a real browser: draw, drop, choose, paste, keyboard, errors, and nothing loaded from elsewhere."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.browser import IN_A_BROWSER, answered, draw, opened
from tests.serve.servers import over_socket, png, write_model

pytestmark = IN_A_BROWSER

SEVEN = [[(0.0, 0.0), (1.0, 0.0), (0.4, 1.0)]]
ONE = [[(0.5, 0.0), (0.5, 1.0)]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two models: one of digits, drawn, and one of large pictures, dropped."""
    root = tmp_path_factory.mktemp("models")
    write_model(root, "digits")
    write_model(root, "photos", side=224, labels=[f"thing {k}" for k in range(10)])
    settings = Settings(decode_threads=1, access_log=False)
    with over_socket(Repository.open(root, settings), settings) as url:
        yield url


@pytest.fixture
def page(browser: Any, site: str) -> Iterator[Any]:
    with opened(browser, site, accept_downloads=True) as page:
        yield page


def test_what_runs_a_model_is_among_its_facts(page: Any) -> None:
    assert page.locator("#facts").inner_text() == "brightness, version 1 · 192 MACs · 10 classes · ONNX Runtime on CPU"


def test_a_drawing_is_answered_with_bars_times_and_a_curl_line_that_works(page: Any, tmp_path: Path) -> None:
    draw(page, SEVEN)
    answered(page)
    bars = page.locator("#bars li")
    assert bars.count() == 5
    shares = [float(bars.nth(k).get_attribute("data-probability")) for k in range(5)]
    assert shares == sorted(shares, reverse=True)
    assert re.fullmatch(r"\d, [\d.]+\s% sure, says digits\.", page.locator("#status").inner_text())
    stages = page.locator("#times [data-stage]")
    assert [stages.nth(k).get_attribute("data-stage") for k in range(stages.count())] == [
        "read", "decode", "queue", "infer", "other", "server", "round trip",
    ]  # fmt: skip
    assert page.locator("#batch").inner_text() == "ran alone"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "digit.png")
    command = shlex.split(page.locator("#curl").inner_text())
    answer = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=20).stdout)
    best = answer["results"][0]["predictions"][0]
    assert best["label"] == bars.first.get_attribute("data-label")
    assert best["probability"] == pytest.approx(shares[0], abs=1e-5)


def sent_picture(page: Any, tmp_path: Path) -> Image.Image:
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "digit.png")
    return Image.open(tmp_path / "digit.png").convert("L")


@pytest.mark.parametrize("width", [0.1, 0.3, 0.55])
@pytest.mark.parametrize("strokes", [SEVEN, ONE], ids=["seven", "one"])
def test_what_is_sent_looks_like_the_training_pictures(
    page: Any, tmp_path: Path, strokes: list[list[tuple[float, float]]], width: float
) -> None:
    """Small or large, in a corner or not: 64 x 64, white on black, full height, centred, with the usual ink."""
    draw(page, strokes, left=0.05, top=0.1, width=width)
    answered(page)
    sent = sent_picture(page, tmp_path)
    assert sent.size == (64, 64)
    left, top, right, bottom = sent.point(lambda value: 255 * (value > 100)).getbbox()
    assert top <= 1
    assert bottom >= 63
    assert abs((left + right) / 2 - 32) <= 2
    assert right - left <= 0.8 * 64 + 2
    ink = np.asarray(sent).mean() / 255
    assert ink == pytest.approx(0.305, abs=0.02)


def test_drawing_by_keyboard(page: Any) -> None:
    page.focus("#pad")
    page.keyboard.press("Space")
    for key in ["ArrowDown"] * 8 + ["ArrowRight"] * 3:
        page.keyboard.press(key)
    page.keyboard.press("Space")
    answered(page)
    page.keyboard.press("Delete")
    page.wait_for_selector("body[data-state=idle]")
    assert page.locator("#bars li").count() == 0


def test_undo_and_clear(page: Any) -> None:
    assert page.locator("#undo").is_disabled()
    draw(page, SEVEN)
    first = answered(page)
    draw(page, [[(0.0, 0.2), (1.0, 0.2)]])
    page.click("#undo")
    page.wait_for_function("label => document.querySelector('#bars li')?.dataset.label === label", arg=first)
    page.click("#clear")
    page.wait_for_selector("body[data-state=idle]")
    assert page.locator("#again").is_hidden()


def test_a_chosen_picture(page: Any, tmp_path: Path) -> None:
    name = "it's [a] picture.png"
    (tmp_path / name).write_bytes(png(255))
    page.set_input_files("#file", str(tmp_path / name))
    assert answered(page) == "9"
    assert page.locator("#preview").is_visible()
    assert page.locator("#pad").is_hidden()
    command = shlex.split(page.locator("#curl").inner_text())
    assert name in command
    answer = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=20).stdout)
    assert answer["results"][0]["predictions"][0]["label"] == "9"
    page.click("#clear")
    assert page.locator("#pad").is_visible()


_TRANSFER = """([bytes, name, type]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
  return transfer;
}"""


def test_a_dropped_and_a_pasted_picture(page: Any) -> None:
    transfer = page.evaluate_handle(_TRANSFER, [list(png(0)), "black.png", "image/png"])
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    assert answered(page) == "0"
    page.evaluate(
        "([args]) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: (" + _TRANSFER + ")(args) }))",
        [[list(png(255)), "", "image/png"]],
    )
    page.wait_for_selector("#bars li[data-label='9']:first-child")


def test_another_model_is_asked_again_and_takes_pictures_only(page: Any) -> None:
    draw(page, SEVEN)
    answered(page)
    page.select_option("#model", "photos")
    page.wait_for_selector("#bars li[data-label^='thing']")
    assert "model=photos" in page.locator("#curl").inner_text()
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    page.select_option("#model", "photos")
    assert page.locator("#pad").is_hidden()
    assert page.locator("#choose").is_visible()


def test_a_file_that_is_no_picture_gets_the_servers_words(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", str(tmp_path / "notes.txt"))
    page.wait_for_selector("body[data-state=error]")
    assert "not an image that this server reads" in page.locator("#error-message").inner_text()
    assert "save it again as JPEG" in page.locator("#error-hint").inner_text()
    assert re.search(r"not_an_image · 400 · request [0-9a-f]{16}", page.locator("#error-id").inner_text())
    assert page.locator("#error").get_attribute("role") == "alert"
    page.click("#clear")
    draw(page, SEVEN)
    answered(page)
    assert page.locator("#error").is_hidden()


def test_a_server_that_is_gone(page: Any, site: str) -> None:
    page.route(f"{site}/v1/classify*", lambda route: route.abort())
    draw(page, SEVEN)
    page.wait_for_selector("body[data-state=error]")
    assert page.locator("#error-message").inner_text() == "The server cannot be reached."


def test_the_phone_fits_and_touch_draws(browser: Any, site: str) -> None:
    with opened(browser, site, viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark") as page:
        page.locator("#pad").tap()
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for selector in ("#clear", "#choose", "#model", "#with"):
            assert page.locator(selector).bounding_box()["height"] >= 40  # a finger's width


def test_the_api_reference_works_offline(page: Any, site: str) -> None:
    page.goto(f"{site}/docs")
    page.wait_for_selector("#classify")
    paths = page.evaluate("fetch('/openapi.json').then((response) => response.json()).then(({ paths }) => paths)")
    assert page.locator("section h2 span:last-child").all_inner_texts() == list(paths)
    page.click("text=Send GET /readyz")
    page.wait_for_selector('pre:has-text(\'"status": "ready"\')')
