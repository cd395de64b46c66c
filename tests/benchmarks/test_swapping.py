"""Hot swap and reloads against real servers, for a moment; and what their verdicts say of figures made up."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hot_swap, reloads
from benchmarks.proofs import Verdict
from tests.serve.servers import png, write_model


def missed(verdicts: Any) -> list[str]:
    found: list[Verdict] = list(verdicts)
    assert found
    return [verdict.what for verdict in found if not verdict.met]


def test_versions_are_swapped_under_a_server(tmp_path: Path) -> None:
    write_model(tmp_path)
    rows = hot_swap.swap(tmp_path, "shades", png(128), Namespace(seconds=1.2, every=0.5, clients=2))
    assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["requests"], "it is waited for"
    assert len(rows) > 1
    # Of two versions that come at once, a slow machine serves the later.
    assert set(missed(hot_swap.verdicts(rows))) <= {"versions that never answered"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"failed": 1}, "failed requests"),
        ({"of_another_version": 1}, "answers that are not of the version that they name"),
        ({"requests": 0}, "versions that never answered"),
        ({}, ""),
    ],
)
def test_a_swap_that_goes_wrong_is_told(changes: dict[str, int], what: str) -> None:
    row = {"version": 1, "requests": 10, "failed": 0, "of_another_version": 0}
    assert missed(hot_swap.verdicts([row, {**row, **changes}])) == ([what] if what else [])
    behind = [{"fronts": 0, **row}, {"fronts": 2, **row, **changes}]
    assert missed(hot_swap.verdicts(behind)) == ([f"{what}, 2 fronts"] if what else [])


def test_a_server_is_made_to_reload(tmp_path: Path) -> None:
    write_model(tmp_path)
    rows = reloads.reload(tmp_path, "shades", png(), 22)
    assert [row["loads"] for row in rows] == [20, 22]
    assert all(float(str(row["largest_rss_mb"])) >= float(str(row["rss_mb"])) > 20 for row in rows)


def test_growth_is_measured_after_warm_up() -> None:
    def rows(sizes: list[float]) -> list[dict[str, object]]:
        return [{"loads": place, "largest_rss_mb": size, "files": 9} for place, size in enumerate(sizes)]

    steady = [50.0, 80.0, *[100.0] * 18]
    assert reloads.growth_percent(rows(steady)) == 0
    assert missed(reloads.verdicts(rows(steady))) == []
    growing = [100.0 + place for place in range(20)]
    assert reloads.growth_percent(rows(growing)) == pytest.approx((117.5 / 103.5 - 1) * 100)
    assert missed(reloads.verdicts(rows(growing))) == ["growth of memory after warm-up"]
    leaking = rows(steady)
    leaking[-1]["files"] = 29
    assert missed(reloads.verdicts(leaking)) == ["open files, of first and last row"]
