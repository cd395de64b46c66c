"""Chromium driven by Playwright, and a hand that draws."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NO_CHROMIUM = "no Chromium here: apt install chromium to run the page's tests"
IN_A_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.filterwarnings("default"),  # the browser driver's own loop, not ours
]
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
Strokes = Sequence[Sequence[tuple[float, float]]]
_WITHIN_MS = 120_000  # a browser and a server on one busy core


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium, the system's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS, timeout=_WITHIN_MS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, site: str, path: str = "/", **options: Any) -> Iterator[Any]:
    """The page, loaded; at the end nothing may have been asked of another host, nor any script have failed."""
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
    context.set_default_timeout(_WITHIN_MS)
    page = context.new_page()
    foreign: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((site, "blob:")) else foreign.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    try:
        page.goto(site + path)
        page.wait_for_selector("#model option", state="attached")
        yield page
    finally:
        context.close()
    assert not foreign
    assert not errors


def draw(page: Any, strokes: Strokes, *, left: float = 0.25, top: float = 0.15, width: float = 0.5) -> None:
    """Draws with the mouse: strokes in a box of width and height 1, placed on the canvas, 1.4 times as high as wide."""
    box = page.locator("#pad").bounding_box()
    for stroke in strokes:
        for step, (x, y) in enumerate(stroke):
            across, down = left + width * x, top + 1.4 * width * y
            page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down, steps=4 if step else 1)
            if step == 0:
                page.mouse.down()
        page.mouse.up()


def done(page: Any) -> None:
    """Waits for an answer to be on the page."""
    page.wait_for_selector("body[data-state=done]")


def answered(page: Any) -> str:
    """Waits for an answer to be on the page, and returns its best label."""
    done(page)
    label: str = page.locator("#bars li").first.get_attribute("data-label")
    return label
