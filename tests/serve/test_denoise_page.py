"""The page's denoising view in a real browser: noise, divider, figures against numpy, files, errors, phones."""

import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.browser import IN_A_BROWSER, done, opened
from tests.serve.denoiser_stub import SIDE, StubServer, blurred, sample
from tests.serve.servers import encoded, wait_until

pytestmark = IN_A_BROWSER
LINK = "/?model=blur"


@pytest.fixture
def server(stub: tuple[str, StubServer]) -> StubServer:
    server = stub[1]
    server.asked.clear()
    server.delays.clear()
    return server


@pytest.fixture
def page(browser: Any, stub: tuple[str, StubServer], server: StubServer) -> Iterator[Any]:
    with opened(browser, stub[0], LINK, accept_downloads=True) as page:
        done(page)
        yield page


def sigma(page: Any, value: int) -> None:
    """Sets the slider, waits for the answer to it."""
    page.evaluate("() => { document.body.dataset.state = 'asked'; }")
    page.locator("#sigma").fill(str(value))
    done(page)


def choose(page: Any, name: str, data: bytes, kind: str = "image/png") -> None:
    page.evaluate("() => { document.body.dataset.state = 'asked'; }")
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def figure(page: Any, name: str) -> list[str]:
    return [str(text) for text in page.locator(f'#figures tr[data-figure="{name}"] td').all_inner_texts()]


def downloaded(page: Any, link: str, tmp_path: Path) -> Path:
    with page.expect_download() as download:
        page.click(link)
    path = tmp_path / str(download.value.suggested_filename)
    download.value.save_as(path)
    return path


def psnr(one: Any, two: Any) -> float:
    difference = np.asarray(one, np.float64) - np.asarray(two, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def share(page: Any) -> int:
    return int(page.locator(".divider").first.get_attribute("aria-valuenow"))


def clipped(page: Any) -> float:
    """The share of the upper picture that the browser cuts off at the left."""
    style = page.locator("#photo .pane.after").evaluate("pane => getComputedStyle(pane).clipPath")
    match = re.search(r"([\d.]+)%\)$|calc\(([\d.]+) \* 100%\)\)$", style)
    assert match, style
    return float(match[1]) / 100 if match[1] else float(match[2])


def test_the_first_photograph_is_cleaned_and_the_figures_are_those_of_its_files(page: Any, tmp_path: Path) -> None:
    noisy = Image.open(downloaded(page, "#download", tmp_path))
    clean = Image.open(downloaded(page, "#clean", tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"noisy.png", "hills_clean.png"}
    assert (noisy.mode, noisy.size) == ("RGB", (SIDE, SIDE))
    truth = sample("hills")
    before, after = psnr(noisy, truth), psnr(clean, truth)
    assert figure(page, "PSNR, dB") == [f"{before:.2f}", f"{after:.2f}"]
    assert figure(page, "gain, dB") == ["", f"+{after - before:.2f}"]
    assert figure(page, "tiles") == ["", "4"]
    assert figure(page, "megapixels/s") == ["", f"{SIDE * SIDE / 1e6 / 0.030:.3f}"]
    assert np.array_equal(clean, blurred(noisy, "blur"))
    middle = np.abs(np.asarray(truth, np.float64) - 128) < 40  # where nothing is clipped
    difference = (np.asarray(noisy, np.float64) - np.asarray(truth, np.float64))[middle]
    assert difference.std() == pytest.approx(25, rel=0.03)
    assert difference.mean() == pytest.approx(0, abs=0.6)
    times = dict(zip(*(page.locator(f"#times {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert list(times) == ["read", "decode", "queue", "denoise", "encode", "other", "server", "round trip"]
    assert (times["denoise"], times["other"]) == ("20\xa0ms", "1.75\xa0ms")


def test_the_curl_line_gives_the_same_picture(page: Any, tmp_path: Path) -> None:
    clean = downloaded(page, "#clean", tmp_path)
    downloaded(page, "#download", tmp_path)
    command = shlex.split(page.locator("#curl").inner_text())
    assert command[:7] == ["curl", "-T", "noisy.png", "-H", "Content-Type: image/png", "-H", "Accept: image/png"]
    assert command[-2:] == ["-o", "clean.png"]
    subprocess.run([*command, "-sS"], cwd=tmp_path, check=True, timeout=20)
    assert np.array_equal(Image.open(tmp_path / "clean.png"), Image.open(clean))


def test_the_noise_follows_its_slider_and_is_the_same_every_time(page: Any, server: StubServer, tmp_path: Path) -> None:
    first = downloaded(page, "#download", tmp_path).read_bytes()
    sigma(page, 50)
    strong = Image.open(downloaded(page, "#download", tmp_path))
    assert figure(page, "PSNR, dB")[0] == f"{psnr(strong, sample('hills')):.2f}"
    assert page.locator("#sigma-value").inner_text() == "50"
    sigma(page, 0)
    assert figure(page, "PSNR, dB")[0] == "equal"
    assert figure(page, "gain, dB") == ["", "\u2013"]
    sigma(page, 25)
    assert downloaded(page, "#download", tmp_path).read_bytes() == first


def test_many_steps_of_the_slider_ask_once(page: Any, server: StubServer) -> None:
    server.asked.clear()
    state = page.locator("#sigma").evaluate(
        """slider => {
          for (slider.value = 26; slider.value < 31; slider.value++) {
            for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name));
            if (slider.value == 30) break;
          }
          return document.body.dataset.state;
        }"""
    )
    assert state == "busy"
    done(page)
    assert page.locator("#sigma-value").inner_text() == "30"
    assert len(server.asked) == 1


def test_another_photograph(page: Any, tmp_path: Path) -> None:
    page.click("text=stripes")
    page.wait_for_selector("#photo .pane.after img[alt='stripes denoised by blur']")
    noisy = Image.open(downloaded(page, "#download", tmp_path))
    assert figure(page, "PSNR, dB")[0] == f"{psnr(noisy, sample('stripes')):.2f}"
    assert [button.get_attribute("aria-pressed") for button in page.locator(".sample").all()] == ["false", "true"]


def test_the_divider_moves_by_keyboard_and_mouse(page: Any) -> None:
    divider = page.get_by_role("slider", name="Divider between before and after")
    assert (divider.get_attribute("aria-valuemin"), divider.get_attribute("aria-valuemax")) == ("0", "100")
    divider.focus()
    for key, value in [("ArrowRight", 51), ("Shift+ArrowLeft", 41), ("PageUp", 51), ("End", 100), ("Home", 0)]:
        page.keyboard.press(key)
        assert share(page) == value
        assert clipped(page) == pytest.approx(value / 100, abs=0.006)
    box = page.locator("#photo .stage").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
    page.mouse.down()
    assert share(page) == 30
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 40, steps=3)
    assert share(page) == 80
    page.mouse.up()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 40)
    assert share(page) == 80
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)  # its handle
    page.mouse.down()
    page.mouse.move(box["x"] - 500, box["y"], steps=3)
    page.mouse.up()
    assert share(page) == 0
    assert page.locator(".tag.before").first.evaluate("tag => getComputedStyle(tag).pointerEvents") == "none"


def corner(page: Any) -> tuple[float, float, float]:
    """Where the lower picture's left top corner is in its box, and how wide it is shown."""
    box, image = (page.locator(f"#photo {what}").bounding_box() for what in (".stage", ".pane.before img"))
    return image["x"] - box["x"], image["y"] - box["y"], image["width"]


def test_one_to_one_pans_and_stays_inside(page: Any) -> None:
    choose(page, "large.png", encoded(Image.new("RGB", (2000, 1500), (90, 120, 150))))
    done(page)
    box = page.locator("#photo .stage").bounding_box()
    assert corner(page) == pytest.approx((0, 0, box["width"]), abs=1)
    page.click("#zoom")
    middle = (box["width"] / 2 - 1000, box["height"] / 2 - 750, 2000)
    assert corner(page) == pytest.approx(middle, abs=1)
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 70, steps=3)
    page.mouse.up()
    assert corner(page) == pytest.approx((middle[0] + 60, middle[1] - 30, 2000), abs=1)
    assert share(page) == 50
    page.mouse.wheel(-40, -20)
    wait_until(lambda: corner(page) == pytest.approx((middle[0] + 100, middle[1] - 10, 2000), abs=1))
    page.locator("#photo .stage").focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    assert corner(page)[0] == pytest.approx(0, abs=1)
    page.locator("#photo .stage").dblclick(position={"x": 30, "y": 30})
    assert corner(page)[2] == pytest.approx(box["width"], abs=1)
    assert page.locator("#zoom").get_attribute("aria-pressed") == "false"


def test_ones_own_picture_is_sent_as_it_is_and_with_noise_where_asked(
    page: Any, server: StubServer, tmp_path: Path
) -> None:
    picture = sample("stripes").resize((150, 40))
    server.asked.clear()
    choose(page, "my holiday.jpg", encoded(picture, "JPEG"), "image/jpeg")
    done(page)
    assert server.asked == [("blur", "image/jpeg")]
    assert page.locator("#batch").inner_text() == "150 \u00d7 40, 0.006 megapixels"
    assert figure(page, "PSNR, dB") == []
    assert page.locator("#sigma").is_hidden()
    assert page.locator("#download-line").is_hidden()
    clean = downloaded(page, "#clean", tmp_path)
    assert clean.name == "my holiday_clean.jpg"
    assert clean.read_bytes().startswith(b"\xff\xd8\xff")
    command = shlex.split(page.locator("#curl").inner_text())
    assert command[2] == "my holiday.jpg"
    assert command[-1] == "clean.jpg"
    page.evaluate("() => { document.body.dataset.state = 'asked'; }")
    page.check("#own-noise")
    done(page)
    noisy = Image.open(downloaded(page, "#download", tmp_path))
    assert figure(page, "PSNR, dB")[0] == f"{psnr(noisy, Image.open(io.BytesIO(encoded(picture, 'JPEG')))):.2f}"
    assert server.asked[-1] == ("blur", "image/png")
    page.select_option("#format", "image/webp")
    page.wait_for_selector("#clean[download$='.webp']")
    assert downloaded(page, "#clean", tmp_path).read_bytes()[8:12] == b"WEBP"


def test_a_note_of_the_server_is_shown(page: Any) -> None:
    choose(page, "grey.png", encoded(Image.new("L", (20, 20), 77)))
    done(page)
    assert page.locator("#note").inner_text() == "L converted to RGB."
    page.click("text=hills")
    page.wait_for_selector("#note", state="hidden")


def test_what_the_browser_cannot_show_is_cleaned_all_the_same(page: Any) -> None:
    choose(page, "scan.tif", encoded(sample("hills"), "TIFF"), "image/tiff")
    done(page)
    assert page.locator("#photo .pane.before img").count() == 0
    assert page.locator("#photo .pane.after img").is_visible()
    assert page.locator("#photo .divider").is_hidden()
    page.check("#own-noise")
    page.wait_for_selector("body[data-state=error]")
    assert page.locator("#error-message").inner_text() == "This browser cannot read the picture's pixels."


def test_errors_are_said_in_words(page: Any, stub: tuple[str, StubServer]) -> None:
    choose(page, "notes.txt", b"no picture", "text/plain")
    page.wait_for_selector("body[data-state=error]")
    assert "not an image that this server reads" in page.locator("#error-message").inner_text()
    assert page.locator("#error-id").inner_text() == "not_an_image · 400 · request 0123456789abcdef"
    assert page.locator("#figures-box").is_hidden()
    page.click("text=hills")
    done(page)
    assert page.locator("#error").is_hidden()
    page.route(f"{stub[0]}/v1/denoise*", lambda route: route.abort())
    page.click("text=stripes")
    page.wait_for_selector("body[data-state=error]")
    assert page.locator("#error-message").inner_text() == "The server cannot be reached."


def test_a_newer_choice_takes_back_the_older_question(page: Any, server: StubServer) -> None:
    server.delays["blur"] = 250.0  # or until there is none
    page.click("text=stripes")
    page.wait_for_selector(".veil:text-matches('denoising, [1-9][0-9]* s')")
    assert page.locator("#photo .pane.before img").get_attribute("alt") == "stripes before"
    assert page.locator("#photo .pane.after img").count() == 0
    server.delays.clear()
    page.click("text=hills")
    page.wait_for_selector("#photo .pane.after img[alt='hills denoised by blur']")
    done(page)
    assert page.locator("#photo .pane.after img").get_attribute("alt") == "hills denoised by blur"
    assert page.locator(".veil").first.inner_text() == ""


def test_two_denoisers_side_by_side(browser: Any, stub: tuple[str, StubServer], server: StubServer) -> None:
    with opened(browser, stub[0], "/?model=blur&with=soft", accept_downloads=True) as page:
        done(page)
        heads = page.locator("#figures thead th").all_inner_texts()
        assert heads == ["", "before", "blur", "soft"]
        before, blur, soft = (float(text) for text in figure(page, "PSNR, dB"))
        assert before < soft < blur
        assert page.locator("#status").inner_text() == f"blur is {blur - soft:.2f} dB better."  # equally fast
        assert figure(page, "model") == ["", "20\xa0ms", "20\xa0ms"]
        page.select_option("#pair", label="blur | soft")
        assert [page.locator(f"#photo .tag.{side}").inner_text() for side in ("before", "after")] == ["blur", "soft"]
        alts = [page.locator(f"#photo .pane.{side} img").get_attribute("alt") for side in ("before", "after")]
        assert alts == ["hills denoised by blur", "hills denoised by soft"]
        assert page.locator("#curl").inner_text().count("curl -T noisy.png") == 2
        page.select_option("#with", "")
        page.wait_for_selector("#pair-row", state="hidden")
        done(page)
        assert page.url.endswith(LINK)
        assert page.locator("#figures thead th").all_inner_texts() == ["", "before", "after"]


def test_one_of_two_fails(browser: Any, stub: tuple[str, StubServer], server: StubServer) -> None:
    with opened(browser, stub[0], "/?model=blur") as page:
        done(page)
        page.route("**/v1/denoise?model=soft", lambda route: route.abort())
        page.select_option("#with", "soft")
        page.wait_for_selector("#figures th:text-is('soft')")
        assert page.locator("#error-message").inner_text() == "The server cannot be reached."
        assert figure(page, "PSNR, dB")[2] == "\u2013"
        assert page.locator("#status").inner_text().startswith("blur takes the PSNR from ")
        page.select_option("#pair", label="blur | soft")
        assert page.locator("#photo .divider").is_hidden()


def test_the_menu_changes_the_view_and_back(page: Any) -> None:
    groups = page.locator("#model optgroup").evaluate_all("groups => groups.map(({ label }) => label)")
    assert groups == ["Classification", "Denoising", "Denoising of video"]
    page.select_option("#model", "digits")
    assert page.locator("#pad").is_visible()
    assert page.locator("#photo").is_hidden()
    assert page.locator("#figures-box").is_hidden()
    assert page.locator("#with-row").is_hidden()
    assert page.locator("#status").inner_text() == "The answer appears here."
    page.select_option("#model", "soft")
    page.wait_for_selector("#photo .pane.after img[alt='hills denoised by soft']")
    assert page.locator("#pad").is_hidden()
    assert page.locator("#with option").all_inner_texts() == ["none", "blur"]


@pytest.mark.parametrize("link", [LINK, "/?model=blur&with=soft"])
def test_the_phone_fits_and_a_finger_moves_the_divider(
    browser: Any, stub: tuple[str, StubServer], server: StubServer, link: str
) -> None:
    options = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "color_scheme": "dark"}
    with opened(browser, stub[0], link, **options) as page:
        done(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for selector in ("#zoom", "#choose", "#format", "#clean", ".sample", "#sigma"):
            assert page.locator(selector).first.bounding_box()["height"] >= 40  # a finger's width
        page.locator("#photo .stage").scroll_into_view_if_needed()
        box = page.locator("#photo .stage").bounding_box()
        page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
        assert share(page) == 25
        page.click("#zoom")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
