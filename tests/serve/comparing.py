"""What the page's compare view is asked, and what it shows."""

import re
from typing import Any

import numpy as np

from tests.serve.servers import CLASSES, png

# Holds what fetch gives while window.holding, and gives it later even to who took the question back.
HOLD = """
window.held = [];
const real = window.fetch;
window.fetch = async (url, options) => {
  const response = real(url, window.holding ? { ...options, signal: undefined } : options);
  if (window.holding) await new Promise((release) => window.held.push(release));
  return response;
};
"""


def link(other: str, model: str = "digits") -> str:
    return f"/?model={model}&with={other}"


def send(page: Any, level: int) -> None:
    file = {"name": "flat.png", "mimeType": "image/png", "buffer": png(level)}
    page.set_input_files("#file", file)


def column(page: Any, side: int) -> Any:
    return page.locator(".column").nth(side)


def figure(page: Any, side: int, name: str) -> str:
    return str(column(page, side).locator(f"[data-figure={name}]").inner_text())


def best(page: Any, side: int) -> str:
    return str(column(page, side).locator(".bars li").first.get_attribute("data-label"))


def verdict(page: Any) -> str:
    return str(page.locator("#verdict").inner_text())


def edit_infer(page: Any, times: dict[str, list[float]], batch_size: int = 1) -> list[str]:
    """Makes the server's answers say these engine times, each model's in turn; returns the models as they are asked."""
    asked: list[str] = []
    left = {model: list(values) for model, values in times.items()}

    def edited(route: Any) -> None:
        model = re.search(r"model=(\w+)", route.request.url)[1]
        response = route.fetch()
        answer = response.json()
        answer["results"][0]["timing_ms"]["infer"] = left[model].pop(0)
        answer["results"][0]["batch_size"] = batch_size
        asked.append(model)
        route.fulfill(response=response, json=answer)

    page.route("**/v1/classify*", edited)
    return asked


def probabilities(level: int, scale: float) -> Any:
    """The tiny model's formula."""
    logits = scale * (level - np.linspace(0, 255, CLASSES)) ** 2
    return np.exp(logits) / np.exp(logits).sum()


def largest_difference(page: Any) -> float:
    """In percentage points, as the page says it."""
    match = re.search(
        r"The largest difference of a probability is ([\d.]+) percentage points \(for \d\)\.", verdict(page)
    )
    assert match
    return float(match[1])


def hold(page: Any, holding: bool) -> None:
    page.evaluate("holding => { window.holding = holding; }", holding)


def release(page: Any) -> None:
    page.evaluate("() => { for (const release of window.held) release(); }")
    page.wait_for_timeout(150)
