"""The page's view of a video denoiser in a real browser: a clip goes up, progress, two clips in step, errors."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.serve import clips
from tests.serve.browser import IN_A_BROWSER, done, opened
from tests.serve.denoiser_stub import StubServer, sample

pytestmark = IN_A_BROWSER
LINK = "/?model=clips"


@pytest.fixture
def page(browser: Any, stub: tuple[str, StubServer]) -> Iterator[Any]:
    stub[1].delays.clear()
    with opened(browser, stub[0], LINK, accept_downloads=True) as page:
        yield page


@pytest.fixture(scope="module")
def clip() -> bytes:
    """24 frames of 64 x 48 in one second, as browsers play them."""
    return clips.clip(clips.gradient_frames(24), "webm", "libvpx", "yuv420p", rate=24)


def choose(page: Any, data: bytes, name: str = "my pan.webm", kind: str = "video/webm") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


# Every state of the progress, however short: what the status says, and how full the bar is.
_RECORD = """() => {
  window.seen = [];
  const find = (selector) => document.querySelector(selector);
  const [status, bar, before] = [find("#status"), find("#windows"), find("#clip .pane.before")];
  new MutationObserver(() => window.seen.push([status.textContent, bar.value, before.childElementCount]))
    .observe(status, { childList: true });
}"""


# The button is pressed by the page: a moment later the clip may be at its beginning again.
_PAUSE_LATER_THAN = """time => {
  const played = [...document.querySelectorAll("#clip video")].every(({ currentTime }) => currentTime > time);
  if (played) document.querySelector("#play").click();
  return played;
}"""


def test_a_clip_is_cleaned_and_played_beside_what_it_was(page: Any, clip: bytes, tmp_path: Path) -> None:
    assert page.locator("#drop").is_visible()
    assert page.locator("#clip-players").is_hidden()
    choose(page, clip)
    done(page)
    assert page.locator("#drop").is_hidden()
    assert page.locator("#clip .pane video").count() == 2
    assert re.fullmatch("64 \u00d7 48, 0.0031 megapixels, 1.0 s", page.locator("#batch").inner_text())
    assert page.locator("#play").inner_text() == "Pause"
    page.wait_for_function(_PAUSE_LATER_THAN, arg=0.2)
    times = page.locator("#clip video").evaluate_all("clips => clips.map(({ currentTime }) => currentTime)")
    assert times[0] == times[1] > 0.2  # a pause shows the same frame of both
    page.locator("#seek").fill("0.5")
    times = page.locator("#clip video").evaluate_all("clips => clips.map(({ currentTime }) => currentTime)")
    assert times == pytest.approx([0.5, 0.5], abs=0.02)
    page.click("#play")
    starting = "({ currentTime, paused }) => !paused && currentTime < 0.4"
    page.wait_for_function(f"() => [...document.querySelectorAll('#clip video')].every({starting})")  # again, from 0
    page.click("#play")
    page.get_by_role("slider", name="Divider between before and after").press("End")
    assert page.locator("#clip .divider").get_attribute("aria-valuenow") == "100"
    stages = [text.split("\n")[0] for text in page.locator("#times dt").all_inner_texts()]
    assert stages == ["read", "decode", "queue", "denoise", "encode", "other", "server", "round trip"]
    command = shlex.split(page.locator("#curl").inner_text())
    assert command[2] == "my pan.webm"
    assert command[4] == "Content-Type: video/webm"
    assert command[-1] == "clean.mp4"
    with page.expect_download() as download:
        page.click("#clean-clip")
    download.value.save_as(tmp_path / "clean")
    assert (tmp_path / "clean").read_bytes() == clip


def test_the_frames_are_counted_as_they_are_done(page: Any, stub: tuple[str, StubServer], clip: bytes) -> None:
    stub[1].delays["clips"] = 0.6
    page.evaluate(_RECORD)
    choose(page, clip)
    done(page)
    seen = page.evaluate("window.seen")
    told = [text for text, _, _ in seen if "done" in text]
    assert told == [f"Denoising: {count} of 24 frames done." for count in (8, 16, 24)]
    assert [value for text, value, _ in seen if "done" in text] == [8, 16, 24]
    assert all(before for text, _, before in seen if "done" in text)  # the noisy clip can be seen meanwhile
    assert page.locator("#windows").is_hidden()


def test_a_noise_level_is_sent_where_one_is_given(page: Any, clip: bytes) -> None:
    choose(page, clip)
    done(page)
    assert "sigma" not in page.locator("#curl").inner_text()
    assert page.locator("#clip-note").inner_text() == "The noise was measured as sigma 7."
    with page.expect_request("**/v1/denoise/video*") as asked:
        page.locator("#clip-sigma").fill("12.5")
        page.locator("#clip-sigma").press("Enter")
    assert asked.value.url.endswith("/v1/denoise/video?model=clips&sigma=12.5")
    done(page)
    assert "sigma=12.5" in page.locator("#curl").inner_text()
    assert page.locator("#clip-note").is_hidden()


_COUNT_FRAMES = """() => {
  window.frames_made = 0;
  const real = CanvasCaptureMediaStreamTrack.prototype.requestFrame;
  CanvasCaptureMediaStreamTrack.prototype.requestFrame = function () { window.frames_made++; real.call(this); };
}"""


def test_a_clip_can_be_made_of_a_photograph(page: Any, tmp_path: Path) -> None:
    page.evaluate(_COUNT_FRAMES)
    page.click(".sample:has-text('stripes')")
    done(page)
    assert page.evaluate("window.frames_made") == 24
    assert page.locator(".sample[aria-pressed=true]").inner_text() == "stripes"
    assert shlex.split(page.locator("#curl").inner_text())[2] == "pan.webm"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "pan.webm")
    with av.open(tmp_path / "pan.webm") as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert 2 <= len(frames) <= 24  # a busy browser drops some
    assert frames[0].shape == (76, 76, 3)
    clean = np.asarray(sample("stripes"), np.float64)
    slides = [window(clean, number / 23) for number in range(24)]
    noises = [[frame - slide for slide in slides] for frame in frames]
    places = [int(np.argmin([noise.std() for noise in each])) for each in noises]
    assert places == sorted(places)
    for noise, place in zip(noises, places, strict=True):
        assert 12 < noise[place].std() < 26  # sigma 25, of which clipping and the codec take some
    first, last = noises[0][places[0]], noises[-1][places[-1]]
    assert np.corrcoef(first.ravel(), last.ravel())[0, 1] < 0.3


def window(clean: Any, share: float) -> Any:
    """76 x 76 pixels of 96 x 96, from the left top corner (0) to the right bottom one (1), as a canvas draws them."""
    offset = share * (96 - 76)
    image = Image.fromarray(clean.astype(np.uint8))
    moved = image.transform((76, 76), Image.Transform.AFFINE, (1, 0, offset, 0, 1, offset), Image.Resampling.BILINEAR)
    return np.asarray(moved, np.float64)


def test_a_failure_among_the_lines_is_said_in_words(page: Any, clip: bytes) -> None:
    page.locator("#clip-sigma").fill("13")
    choose(page, clip)
    page.wait_for_selector("body[data-state=error]")
    assert page.locator("#error-message").inner_text() == "The model failed."
    assert page.locator("#error-id").inner_text() == "engine_failed · request f00"
    assert page.locator("#windows").is_hidden()
    assert page.locator("#clip .pane.before video").is_visible()
    assert page.locator("#clean-clip").is_hidden()


def test_a_server_that_is_gone(page: Any, stub: tuple[str, StubServer], clip: bytes) -> None:
    page.route(f"{stub[0]}/v1/denoise/video*", lambda route: route.abort())
    choose(page, clip)
    page.wait_for_selector("body[data-state=error]")
    assert page.locator("#error-message").inner_text() == "The server cannot be reached."


def test_a_clip_that_the_browser_cannot_play_is_sent_all_the_same(page: Any, stub: tuple[str, StubServer]) -> None:
    stub[1].delays["clips"] = 0.6
    page.evaluate(_RECORD)
    choose(page, b"no clip", "odd.avi", "video/x-msvideo")
    done(page)
    seen = [text for text, _, _ in page.evaluate("window.seen")]
    assert "Denoising: 8 frames done." in seen  # not every clip says how many it has
    assert page.locator("#clip-players").is_hidden()
    said = "clips cleaned 24 frames. This browser cannot play it, but it can be downloaded."  # the stub gives it back
    assert page.locator("#status").inner_text() == said
    assert page.locator("#clean-clip").is_visible()


def test_the_phone_fits(browser: Any, stub: tuple[str, StubServer], clip: bytes) -> None:
    options = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "color_scheme": "dark"}
    with opened(browser, stub[0], LINK, **options) as page:
        choose(page, clip)
        done(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for selector in ("#play", "#choose", "#clip-zoom", "#clean-clip", "#clip-sigma", "#seek"):
            assert page.locator(selector).bounding_box()["height"] >= 40  # a finger's width
