"""The page's denoising view against the real server: the blur's arithmetic, the server's times, its words, its menu."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve import clips
from tests.serve.browser import IN_A_BROWSER, answered, done, draw, opened
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import encoded, over_socket, write_model
from tests.serve.video_denoisers import write_video_denoiser

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "digits")
    write_denoiser(root, "identity")
    write_denoiser(root, "mean", "blur")
    write_video_denoiser(root, "steady")
    settings = Settings(decode_threads=1, access_log=False)
    with over_socket(Repository.open(root, settings), settings) as url:
        yield url


@pytest.fixture
def page(browser: Any, site: str) -> Iterator[Any]:
    """With the first bundled photograph cleaned."""
    with opened(browser, site, "/?model=mean", accept_downloads=True) as page:
        done(page)
        yield page


def choose(page: Any, name: str, data: bytes) -> None:
    page.evaluate("() => { document.body.dataset.state = 'asked'; }")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def figures(page: Any, name: str) -> list[str]:
    return [str(text) for text in page.locator(f'#figures tr[data-figure="{name}"] td').all_inner_texts()]


def choose_cut(page: Any) -> None:
    choose(page, "cut.png", encoded(Image.new("RGB", (64, 64), (9, 99, 199)))[:60])
    page.wait_for_selector("body[data-state=error]")


def test_a_bundled_photograph(page: Any) -> None:
    assert page.locator(".sample").inner_text() == "grey"
    before, after = (float(text) for text in figures(page, "PSNR, dB"))
    assert before == pytest.approx(20.2, abs=0.8)
    assert after > before + 4
    assert figures(page, "tiles") == ["", "1"]
    stages = page.locator("#times dt").all_inner_texts()
    assert stages == ["read", "decode", "queue", "denoise", "encode", "other", "server", "round trip"]


def test_an_identity_gains_nothing(page: Any) -> None:
    page.select_option("#with", "identity")
    page.wait_for_selector("#figures th:text-is('identity')")
    done(page)
    before, _, same = figures(page, "PSNR, dB")
    assert before == same
    assert figures(page, "gain, dB")[2] == "+0.00"
    assert page.locator("#status").inner_text().startswith("mean is ")


def test_a_large_picture_is_tiled(page: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 220, 3), np.uint8)
    choose(page, "noise.png", encoded(Image.fromarray(pixels)))
    done(page)
    assert int(figures(page, "tiles")[1]) > 4
    with page.expect_download() as download:
        page.click("#clean")
    download.value.save_as(tmp_path / "clean.png")
    padded = np.pad(pixels.astype(np.float64), ((1, 1), (1, 1), (0, 0)), "reflect")
    mean = sum(padded[down : down + 150, right : right + 220] for down in range(3) for right in range(3)) / 9
    assert np.abs(np.asarray(Image.open(tmp_path / "clean.png"), np.float64) - mean).max() <= 0.51


def test_the_servers_words(page: Any) -> None:
    choose_cut(page)
    assert "cut short" in page.locator("#error-message").inner_text()
    assert page.locator("#error-id").inner_text().startswith("truncated_image · 400 · request ")


def test_the_classifier_beside_it(page: Any) -> None:
    choose_cut(page)
    page.select_option("#model", "digits")
    draw(page, [[(0.0, 0.0), (1.0, 0.0), (0.4, 1.0)]])
    assert answered(page) in "0123456789"
    assert page.locator("#error").is_hidden()
    page.click("text=Clear")
    page.select_option("#model", "identity")
    page.click(".sample")
    page.wait_for_selector("#photo .pane.after img[alt='grey denoised by identity']")


def test_a_clip_without_loss_becomes_one_that_plays(page: Any) -> None:
    page.select_option("#model", "steady")
    clip = clips.clip(clips.gradient_frames(9))
    page.set_input_files("#file", {"name": "pan.mkv", "mimeType": "video/x-matroska", "buffer": clip})
    done(page)
    assert page.locator("#status").inner_text().startswith("steady cleaned 9 frames.")
    assert "sigma" in page.locator("#clip-note").inner_text()
    assert page.locator("#clip .pane.after video").evaluate("video => video.videoWidth") == 64
    assert page.locator("#batch").inner_text().startswith("64 \u00d7 48, ")
    assert page.locator("#clean-clip").get_attribute("download") == "pan_clean.mp4"


def test_a_clip_made_in_the_browser_is_one_that_the_server_reads(page: Any, tmp_path: Path) -> None:
    """However many frames the browser records, and in whatever time: those of one second, or fewer and later ones."""
    page.select_option("#model", "steady")
    page.click(".sample")
    done(page)
    assert "pan.webm" in page.locator("#curl").inner_text()
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "pan.webm")
    with av.open(tmp_path / "pan.webm") as file:
        times = [frame.time for frame in file.decode(video=0)]
    assert page.locator("#status").inner_text().startswith(f"steady cleaned {len(times)} frames.")
    lasts = page.locator("#clip .pane.after video").evaluate("video => video.duration")
    steps = np.diff(times)
    assert lasts > sum(steps) - 0.05
    assert lasts < sum(steps) + max(steps) + 0.05  # the last frame's own time
