"""README's way from a trained ViT to a faster one beside it on the page: every command as it stands."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.readme_commands import run_and_served, steps_after
from tests.serve.browser import CHROMIUM, NO_CHROMIUM, chromium, draw, opened

pytestmark = pytest.mark.timeout(1200)


@dataclass(frozen=True)
class Pair:
    """A folder in which README's commands have run, and the address at which both models are served."""

    folder: Path
    url: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("faster")
    *steps, serve = steps_after("## Make a ViT you have faster")
    with run_and_served(steps, serve, folder) as url:
        yield Pair(folder, url)


def top1(folder: Path) -> float:
    return float(json.loads((folder / "checkpoint.json").read_text())["evaluation"]["metrics"]["top1"])


def test_the_converted_model_is_within_a_point_of_its_original(pair: Pair) -> None:
    original, converted = (top1(pair.folder / "runs" / name) for name in ("digits_vit", "digits_fast"))
    # 360 scans: a point is 3.6 of them. Machines differ in the last digit of a sum, so one scan more is allowed.
    assert converted >= original - 0.01 - 1 / 360


def test_the_report_proposes_a_spec_that_converts(pair: Pair) -> None:
    report = (pair.folder / "analysis" / "report.html").read_text()
    assert "skipvit-convert runs/digits_vit" in report
    assert json.loads((pair.folder / "analysis" / "analysis.json").read_text())


def test_the_exported_pair_was_compared_with_pytorch(pair: Pair) -> None:
    for name in ("digits_vit", "digits_fast"):
        manifest = json.loads((pair.folder / "models" / name / "1" / "manifest.json").read_text())
        assert manifest["parity"][0]["top1_agreement"] == 1.0
        assert manifest["parity"][0]["max_abs"] <= 1e-4


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.filterwarnings("default")  # the browser driver's own loop, not ours
def test_the_page_shows_both_side_by_side(pair: Pair) -> None:
    zero = [[(0.5, 0), (0.15, 0.25), (0.12, 0.7), (0.5, 1), (0.85, 0.7), (0.85, 0.25), (0.5, 0)]]
    with chromium() as browser, opened(browser, pair.url, "/?model=digits_vit&with=digits_fast") as page:
        page.wait_for_selector("#pad", state="visible")
        draw(page, zero, left=0.3, top=0.15, width=0.4)
        page.wait_for_selector("body[data-state=done]")
        names = [page.locator(".column h3").nth(side).inner_text() for side in (0, 1)]
        labels = [page.locator(".column").nth(side).locator(".bars li").first for side in (0, 1)]
        assert ["digits_vit" in names[0], "digits_fast" in names[1]] == [True, True]
        assert [label.get_attribute("data-label") for label in labels] == ["0", "0"]
        assert page.locator("#verdict").inner_text()
