"""The text of a spec: what it means, what it refuses, and that it survives a round trip."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipvit.models.spec import Grid, Reduction, Spec

blocks = st.sets(st.integers(0, 30), max_size=6)
sizes = st.one_of(
    st.integers(1, 999),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.fractions(min_value=Fraction(1, 64), max_value=Fraction(63, 64), max_denominator=64),
)


@given(static=blocks, skip=blocks, tokens=st.dictionaries(st.integers(0, 30), sizes, max_size=4))
def test_text_and_spec_are_the_same_thing(static: set[int], skip: set[int], tokens: dict[int, object]) -> None:
    reductions = tuple(Reduction(block, size) for block, size in tokens.items())  # type: ignore[arg-type]
    spec = Spec(tuple(static), tuple(skip - static), reductions)
    assert Spec.parse(str(spec)) == spec


def test_a_spec_in_words() -> None:
    spec = Spec.parse("static:0-2 skip:4-6,8 tokens:98@3,1/4@6,2x2@9")
    assert spec.static == (0, 1, 2)
    assert spec.skip == (4, 5, 6, 8)
    assert [spec.kind(b) for b in (2, 3, 4)] == ["static", "dynamic", "skip"]
    grids = spec.grids(12, (14, 14))
    assert grids[2:4] == [(14, 14), (14, 7)]
    assert grids[5:7] == [(14, 7), (7, 7)]
    assert grids[9:] == [(2, 2)] * 3
    assert str(spec.first(5)) == "static:0-2 skip:4 tokens:98@3"


@pytest.mark.parametrize(
    ("size", "grid", "expected"),
    [
        ("98", (14, 14), (14, 7)),
        ("100", (14, 14), (10, 10)),
        ("1/2", (24, 24), (24, 12)),  # whole cells are pooled, though 18 x 16 would be squarer
        ("1/4", (24, 24), (12, 12)),
        ("1/4", (8, 16), (4, 8)),
        ("1/2", (4, 4), (4, 2)),
    ],
)
def test_sizes_become_grids_of_near_square_cells(size: str, grid: Grid, expected: Grid) -> None:
    assert Spec.parse(f"tokens:{size}@1").grids(2, grid) == [grid, expected]


@given(h=st.integers(1, 24), w=st.integers(1, 24), f=st.fractions(Fraction(1, 8), Fraction(7, 8), max_denominator=8))
def test_a_fraction_fits_any_grid(h: int, w: int, f: Fraction) -> None:
    before, after = Spec((), (), (Reduction(1, f),)).grids(2, (h, w))
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert 0.5 <= after[0] * after[1] / max(1, round(f * h * w)) <= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("static:3-1", "cannot be read at '3-1'"),
        ("static=1", "cannot be read at 'static=1'"),
        ("static:1 static:2", "each part at most once"),
        ("skip:", "cannot be read"),
        ("tokens:98", "cannot be read at '98'"),
        ("tokens:3/2@1", "fraction below 1"),
        ("tokens:1/1@1", "fraction below 1"),
        ("tokens:0@1", "from 1 up"),
        ("static:1,1", "names a block twice"),
        ("tokens:9@1,4@1", "names a block twice"),
        ("static:1-3 skip:3", "both static and skipped"),
        ("skip:٣", "cannot be read"),
        ("tokens:,", "cannot be read at ''"),
        ("tokens:98@3,,49@6", "cannot be read at ''"),
        ("static:" + ",".join(["0-9999"] * 100_000), "up to 1000 characters, got text of"),
        ("static:0-9999,0-9999", r"names a block twice: 0, 1, 2, 3, 4, 5, 6, 7 \.\.\."),
        (5, "got an? int"),
        (["static:0"], "got a list"),
    ],
)
def test_unreadable_specs_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spec.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip:12", "blocks 0 to 11"),
        ("static:99", "blocks 0 to 11"),
        ("tokens:9@12", "blocks 0 to 11"),
        ("skip:0", "no earlier attention"),
        ("skip:11", "class-token head"),
    ],
)
def test_specs_that_cannot_work_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spec.parse(text).check(12, "token")


def test_the_last_block_may_skip_where_patch_tokens_are_read() -> None:
    Spec.parse("skip:11").check(12, "avg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens:97@1", "near counts that do: 96, 98, 99"),
        ("tokens:200@1", "more than the 196"),
        ("tokens:49@1,98@2", "more than the 49"),
        ("tokens:20x5@1", "does not fit into 14 x 14"),
    ],
)
def test_sizes_that_form_no_grid_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spec.parse(text).grids(12, (14, 14))


@pytest.mark.parametrize("size", ["98", "1/2"])
def test_grids_too_large_to_search_are_refused(size: str) -> None:
    with pytest.raises(ValueError, match="6250 x 6250 patches are too many"):
        Spec.parse(f"tokens:{size}@1").grids(12, (6250, 6250))
    assert Spec.parse("tokens:14x7@1").grids(2, (6250, 6250)) == [(6250, 6250), (14, 7)]
