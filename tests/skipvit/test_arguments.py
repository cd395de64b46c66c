"""Values on a command line: what is read, and what each refusal says."""

import argparse

import pytest

from skipvit.arguments import model_arg, whole


@pytest.mark.parametrize(("least", "text"), [(0, "0"), (1, "1"), (8, "2048")])
def test_whole_numbers_are_read(least: int, text: str) -> None:
    assert whole(least)(text) == int(text)


@pytest.mark.parametrize(("least", "text"), [(1, "0"), (0, "-1"), (0, "1.5"), (0, ""), (0, "٣"), (2, "many")])
def test_other_numbers_are_refused(least: int, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"a whole number from {least} up, got "):
        whole(least)(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=10", 10), ("a=[224,320]", [224, 320]), ('a="avg"', "avg"), ("a=null", None), ("a=1e-5", 1e-5)],
)
def test_arguments_of_models_are_json(text: str, value: object) -> None:
    assert model_arg(text) == ("a", value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "needs KEY=JSON"), ("a b=1", "needs KEY=JSON"), ("a=avg", "not JSON"), ("a=" + "[" * 10**6, "not JSON")],
)
def test_what_is_no_argument_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message) as refused:
        model_arg(text)
    assert len(str(refused.value)) < 200
