"""The page's compare view in a real browser: two models side by side, with formulas and edited answers as oracles."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.browser import IN_A_BROWSER, done, draw, opened
from tests.serve.comparing import (
    HOLD,
    best,
    column,
    edit_infer,
    figure,
    hold,
    largest_difference,
    link,
    probabilities,
    release,
    send,
    verdict,
)
from tests.serve.servers import CLASSES, brightness_model, over_socket, write_model

pytestmark = IN_A_BROWSER

SEVEN = [[(0.0, 0.0), (1.0, 0.0), (0.4, 1.0)]]
LONG = "zz_a_name_that_is_wider_than_the_screen_of_a_phone"
SCALES = {"digits": -0.01, "softer": -0.002}


def fails_on_white() -> onnx.ModelProto:
    """Warm-up's picture is black. Of a white one, all logits are minus infinity, and their softmax is no number."""
    model = brightness_model(scale=-3e38)
    [centres] = [values for values in model.graph.initializer if values.name == "centres"]
    values = np.linspace(0, 240, CLASSES, dtype=np.float32)[None]
    centres.CopyFrom(numpy_helper.from_array(values, "centres"))
    return model


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model, one that agrees with it, one that never does, one that fails, and one of other classes."""
    root = tmp_path_factory.mktemp("models")
    write_model(root, "digits")
    write_model(root, "softer", version=3, graph=brightness_model(scale=SCALES["softer"]))
    write_model(root, LONG)
    write_model(root, "reversed", graph=brightness_model(darkest_first=False))
    write_model(root, "broken", graph=fails_on_white())
    write_model(root, "photos", side=224, labels=[f"thing {k}" for k in range(CLASSES)])
    settings = Settings(decode_threads=1, access_log=False)
    with over_socket(Repository.open(root, settings), settings) as url:
        yield url


@pytest.mark.parametrize("level", [100, 128, 200])
def test_two_that_agree_and_by_how_much_they_differ(browser: Any, site: str, level: int) -> None:
    with opened(browser, site, link("softer")) as page:
        send(page, level)
        done(page)
        one, two = (probabilities(level, scale) for scale in SCALES.values())
        assert best(page, 0) == best(page, 1) == str(one.argmax())
        assert [column(page, side).locator("h3").inner_text() for side in (0, 1)] == [
            "digits version 1", "softer version 3",
        ]  # fmt: skip
        assert column(page, 0).locator(".bars li").count() == 5
        said = page.locator("#status").inner_text().replace("\xa0", " ")
        assert said == (
            f"digits says {one.argmax()}, {one.max():.1%} sure. softer says {two.argmax()}, {two.max():.1%} sure."
        ).replace("%", " %")
        assert verdict(page).startswith("They agree on the top class. ")
        assert largest_difference(page) == pytest.approx(100 * np.abs(one - two).max(), rel=0.05)
        for side in (0, 1):
            assert re.fullmatch(r"[\d.]+\sms", figure(page, side, "engine"))
            assert re.fullmatch(r"[\d.]+\sms", figure(page, side, "trip"))


def test_two_that_disagree_on_a_drawing_and_two_curl_lines_that_work(browser: Any, site: str, tmp_path: Path) -> None:
    with opened(browser, site, link("reversed"), accept_downloads=True) as page:
        draw(page, SEVEN)
        done(page)
        assert int(best(page, 0)) + int(best(page, 1)) == CLASSES - 1
        assert verdict(page).startswith("They disagree on the top class. ")
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "digit.png")
        lines = page.locator("#curl").inner_text().splitlines()
        assert len(lines) == 2
        for side, line in enumerate(lines):
            out = subprocess.run(shlex.split(line), cwd=tmp_path, check=True, capture_output=True, timeout=20).stdout
            answer = json.loads(out)
            assert answer["model"]["name"] == ["digits", "reversed"][side]
            assert answer["results"][0]["predictions"][0]["label"] == best(page, side)
        send(page, 50)
        page.wait_for_selector(".column:last-child .bars li[data-label='7']:first-child")
        done(page)
        truth = probabilities(50, SCALES["digits"])
        assert largest_difference(page) == pytest.approx(100 * np.abs(truth - truth[::-1]).max(), rel=0.05)
        page.click("#clear")
        page.wait_for_selector("body[data-state=idle]")
        assert page.locator(".bars li").count() == 0
        assert verdict(page) == ""


def test_one_that_fails_leaves_the_other_alone(browser: Any, site: str) -> None:
    with opened(browser, site, link("broken")) as page:
        send(page, 255)
        done(page)
        assert best(page, 0) == "9"
        failure = column(page, 1).locator(".failure")
        assert "Model 'broken' failed on this picture." in failure.inner_text()
        assert re.search(r"engine_failed · 500 · request [0-9a-f]{16}", failure.inner_text())
        assert column(page, 0).locator(".failure").is_hidden()
        assert verdict(page) == "Only digits answered, so there is nothing to compare."
        assert "broken did not answer: Model 'broken' failed" in page.locator("#status").inner_text()
        assert page.locator("#time-both").is_disabled()
        page.select_option("#with", "softer")
        done(page)
        assert page.locator(".failure:visible").count() == 0
        assert best(page, 1) == "9"


def test_a_file_that_is_no_picture_fails_in_both(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
        page.wait_for_selector("body[data-state=error]")
        assert page.locator(".column .failure:visible").count() == 2
        assert verdict(page) == "Neither model answered."


def test_other_classes_are_shown_but_not_compared(browser: Any, site: str) -> None:
    with opened(browser, site, link("photos")) as page:
        send(page, 255)
        done(page)
        assert (best(page, 0), best(page, 1)) == ("9", "thing 9")
        assert verdict(page).startswith("They know different classes, so their answers cannot be compared. ")


def test_a_link_names_both_and_the_choice_becomes_a_link(browser: Any, site: str) -> None:
    with opened(browser, site, link("digits", model="softer")) as page:
        model, other = (page.get_by_role("combobox", name=name, exact=True) for name in ("Model", "Compare with"))
        assert (model.input_value(), other.input_value()) == ("softer", "digits")
        assert [column(page, side).locator(".name").inner_text() for side in (0, 1)] == ["softer", "digits"]
        model.select_option("digits")  # which it was compared with: the two change places
        assert page.url == site + link("softer")
        other.select_option("")
        assert page.url == f"{site}/?model=digits"
        assert page.locator("#compare").is_hidden()
        send(page, 0)
        page.wait_for_selector("#bars li[data-label='0']")
        other.select_option("reversed")
        page.wait_for_selector(".column .bars li[data-label='9']")
        page.goto(page.url)  # as from a shared link
        page.wait_for_selector("#model option", state="attached")
        assert other.input_value() == "reversed"


def test_a_link_to_models_that_are_gone_says_so(browser: Any, site: str) -> None:
    with opened(browser, site, "/?model=old&with=older") as page:
        assert page.locator("#status").inner_text() == "The link asks for old and older, not served here."
        assert page.locator("#model").input_value() == "broken"  # the first
        assert page.locator("#with").input_value() == ""


def test_medians_are_of_what_was_measured_in_turns(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        asked = edit_infer(page, {"digits": [9.0, 3.0, 4.0], "softer": [2.0, 1.0, 8.0]})
        for level in (0, 100, 200):
            send(page, level)
            page.wait_for_selector(f".column:last-child .bars li[data-label='{round(level * 9 / 255)}']:first-child")
            done(page)
        assert asked == ["digits", "softer", "softer", "digits", "digits", "softer"]
        assert "median of 3" in column(page, 0).inner_text()
        assert [figure(page, side, "median") for side in (0, 1)] == ["4.00\xa0ms", "2.00\xa0ms"]
        assert [figure(page, side, "engine") for side in (0, 1)] == ["4.00\xa0ms", "8.00\xa0ms"]
        assert verdict(page).endswith("softer was 2.00 times as fast (time of the model, medians of 3).")


def test_a_time_in_company_is_shown_and_not_kept(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        edit_infer(page, {"digits": [9.0], "softer": [2.0]}, batch_size=4)
        send(page, 0)
        done(page)
        assert figure(page, 0, "engine") == "9.00\xa0ms, batch of 4"
        assert figure(page, 0, "median") == "\u2013"
        assert "fast" not in verdict(page)


def test_time_both_takes_turns_and_ends_with_the_ratio(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        times = {"digits": [50.0] + [6.0] * 12 + [7.0] * 8, "softer": [50.0] + [1.0] * 8 + [2.0] * 2 + [4.0] * 10}
        asked = edit_infer(page, times)
        send(page, 128)
        done(page)
        page.click("#time-both")
        page.wait_for_selector("#rounds-note:text-is('Done.')")
        assert asked == ["digits", "softer", "softer", "digits"] * 10 + ["digits", "softer"]
        # The first answers' 50 ms are the 21st last, and forgotten.
        assert [figure(page, side, "median") for side in (0, 1)] == ["6.00\xa0ms", "3.00\xa0ms"]
        assert "median of 20" in column(page, 1).inner_text()
        assert verdict(page).endswith("softer was 2.00 times as fast (time of the model, medians of 20).")
        assert page.locator("#time-both").inner_text() == "Time both 20 times"
        assert best(page, 0) == "5"  # the answers stand


def test_a_stale_answer_overwrites_nothing(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        page.evaluate(HOLD)
        hold(page, True)
        send(page, 0)
        page.wait_for_function("() => window.held.length === 1")
        hold(page, False)
        send(page, 255)
        done(page)
        release(page)
        assert (best(page, 0), best(page, 1)) == ("9", "9")
        send(page, 128)
        page.wait_for_selector(".column:last-child .bars li[data-label='5']:first-child")
        done(page)
        assert "median of 2" in column(page, 0).inner_text()  # its time was not kept either


def test_a_new_picture_and_the_stop_button_end_the_timing(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        page.evaluate(HOLD)
        send(page, 0)
        done(page)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        hold(page, True)
        page.get_by_role("button", name="Time both 20 times").press("Enter")
        page.wait_for_function("() => window.held.length === 1")
        hold(page, False)
        send(page, 255)
        page.wait_for_selector(".column:last-child .bars li[data-label='9']:first-child")
        done(page)
        release(page)
        assert len([url for url in requests if "/classify" in url]) == 3  # one of the run, two of the new picture
        assert page.locator("#time-both").inner_text() == "Time both 20 times"
        assert page.locator("#rounds-note").inner_text() == ""
        hold(page, True)
        page.click("#time-both")
        page.get_by_role("button", name="Stop").click()
        release(page)
        assert page.locator("#rounds-note").inner_text() == "Stopped after 0 of 20."
        assert page.locator("#time-both").inner_text() == "Time both 20 times"
        assert page.locator("#time-both").is_enabled()


def test_a_timing_that_fails_says_why(browser: Any, site: str) -> None:
    with opened(browser, site, link("softer")) as page:
        send(page, 0)
        done(page)
        page.route("**/v1/classify?model=softer*", lambda route: route.abort())
        page.click("#time-both")
        page.wait_for_selector("#rounds-note:text-is('Stopped in round 1: The server cannot be reached.')")
        assert (best(page, 0), best(page, 1)) == ("0", "0")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_name_fits_and_moves_no_row(browser: Any, site: str, width: int) -> None:
    with opened(browser, site, link(LONG), viewport={"width": width, "height": 844}) as page:
        edit_infer(page, {"digits": [2.0], LONG: [1.0]})
        send(page, 100)
        done(page)
        assert verdict(page).endswith(f"{LONG} was 2.00 times as fast (time of the model, one run each).")
        assert column(page, 1).locator(".name").inner_text() == LONG
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        one, two = (column(page, side).locator(".figures").bounding_box() for side in (0, 1))
        assert (one["y"] == two["y"]) is (width == 1280)


@pytest.mark.parametrize(("width", "beside"), [(390, False), (900, False), (1280, True), (1600, True)])
def test_columns_stand_side_by_side_where_there_is_room(browser: Any, site: str, width: int, beside: bool) -> None:
    viewport = {"width": width, "height": 900}
    with opened(browser, site, link("softer"), viewport=viewport) as page:
        before = page.locator("#time-both").bounding_box()
        draw(page, SEVEN)
        done(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        one, two = (column(page, side).bounding_box() for side in (0, 1))
        assert (one["y"] == two["y"]) is beside
        assert abs(page.locator("#time-both").bounding_box()["y"] - before["y"]) < 8  # nothing jumps
