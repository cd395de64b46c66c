"""The page's line of figures, and its question for a key, in a real browser."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.models.repository import Repository
from serve.settings import Settings
from serve.web.api_keys import new_key
from tests.serve.browser import IN_A_BROWSER, answered, opened
from tests.serve.servers import over_socket, png

pytestmark = IN_A_BROWSER

PNG = {"Content-Type": "image/png"}
# The longest figures that there are.
FULL = {
    "status": "ready", "models": 12, "ready": 12, "waiting": 9999, "in_flight": 128, "seconds": 10.9,
    "requests_per_s": 9999, "images_per_s": 9999, "mean_batch": 64.0, "p50_ms": 12.34, "p99_ms": 99_999.0,
    "rejected": 9000, "failed": 999, "uptime_s": 1.0,
}  # fmt: skip
KEY, LINE = new_key("web")


@pytest.fixture(scope="module")
def locked(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(LINE)
    settings = Settings(decode_threads=1, tile_threads=1, access_log=False, api_keys=keys)
    with over_socket(Repository.open(models_dir, settings), settings) as url:
        yield url


def live(page: Any, name: str) -> str:
    text: str = page.locator(f'[data-live="{name}"]').inner_text()
    return text


def test_the_line_shows_the_server_and_moves_nothing(browser: Any, url: str) -> None:
    with opened(browser, url, "/?model=shades") as page:  # a denoiser's page grows when its first picture is there
        page.wait_for_selector('#live[data-state="ready"]')
        assert live(page, "state") == "ready"
        assert live(page, "ready") == "2 of 2"
        before = page.locator("main").bounding_box()
        deadline = time.monotonic() + 60
        while live(page, "p50") == "\N{EN DASH}":
            assert time.monotonic() < deadline
            assert httpx.post(f"{url}/v1/classify?model=shades", content=png(), headers=PNG).status_code == 200
            page.wait_for_timeout(200)
        assert float(live(page, "rate")) > 0
        assert page.locator("main").bounding_box() == before
        assert page.locator("#live[aria-live], #live [aria-live], #live [role=status]").count() == 0


# From this moment on, what is fetched is noted: by the page, as a request that left just before may be told of later.
_LOOK_AWAY = """() => {
  window.asked = [];
  const real = window.fetch;
  window.fetch = (url, options) => { window.asked.push(url); return real(url, options); };
  Object.defineProperty(document, "hidden", { get: () => window.away });
  window.away = true;
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_that_nobody_looks_at_asks_for_nothing(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        page.wait_for_selector('#live[data-state="ready"]')
        page.clock.install()
        page.evaluate(_LOOK_AWAY)
        page.clock.run_for(20_000)
        assert page.evaluate("window.asked") == []
        with page.expect_request("**/v1/status"):
            page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_a_server_that_stops_answering_is_said_to(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        page.wait_for_selector('#live[data-state="ready"]')
        page.route("**/v1/status", lambda route: route.abort())
        page.wait_for_selector('#live[data-state="unknown"]')
        assert (live(page, "state"), live(page, "p99")) == ("no answer", "\N{EN DASH}")
        page.unroute("**/v1/status")
        page.wait_for_selector('#live[data-state="ready"]')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_line_fits_a_phone(browser: Any, url: str, scheme: str) -> None:
    with opened(browser, url, viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        page.wait_for_selector('#live[data-state="ready"]')
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        cut_off = "nodes => nodes.filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.textContent)"
        assert page.locator("#live :is(div, dd)").evaluate_all(cut_off) == []
        page.route("**/v1/status", lambda route: route.fulfill(json={**FULL, "status": "recovering"}))
        page.wait_for_selector('#live[data-state="recovering"]')
        assert page.locator("#live :is(div, dd)").evaluate_all(cut_off) == []


def test_the_page_asks_for_the_key_and_keeps_it_for_the_tab(browser: Any, locked: str, tmp_path: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    try:
        page.goto(locked)
        page.wait_for_selector("#key-dialog[open]")
        assert live(page, "state") == "key needed"
        page.fill("#key", "not a key")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog p:has-text('no spaces')")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog p:has-text('does not know the last one')")
        page.fill("#key", KEY)
        page.click("#key-dialog button:has-text('Use it')")
        page.wait_for_selector("#model option", state="attached")
        page.wait_for_function("() => document.querySelector('#samples img')?.naturalWidth > 0")
        page.wait_for_selector('#live[data-state="ready"]')
        assert page.locator("nav a[href='/metrics']").is_hidden()
        page.select_option("#model", "shades")
        (tmp_path / "white.png").write_bytes(png(255))
        page.set_input_files("#file", str(tmp_path / "white.png"))
        assert answered(page) == "9"
        assert "Authorization: Bearer YOUR-KEY" in page.locator("#curl").inner_text()
        assert KEY not in page.content()
        page.reload()
        page.wait_for_selector("#model option", state="attached")
        assert page.locator("#key-dialog").count() == 0
    finally:
        context.close()
    assert not errors


def test_a_question_that_is_cancelled_leaves_the_servers_words(browser: Any, locked: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    try:
        page.goto(locked)
        page.wait_for_selector("#key-dialog[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("body[data-state=error]")
        assert page.locator("#error-message").inner_text() == "No API key came."
        assert page.locator("#key-dialog").count() == 0
    finally:
        context.close()
