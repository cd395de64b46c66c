"""What a Uformer costs, by closed forms that know nothing of the model's code, beside what is published."""

import pytest

from benchmarks import denoiser_presets as presets
from skipvit.models.timm_guard import timm


def test_every_preset_is_listed() -> None:
    assert sorted(presets.names()) == sorted(timm.list_models("*uformer_*", module="denoisers"))


def test_counted_and_closed_form_agree_to_the_last_unit() -> None:
    rows = presets.table()
    assert {str(row["name"]): row["equal"] for row in rows} == dict.fromkeys(presets.names(), "yes")


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("uformer_tiny", 0.005),
        ("uformer_small", 0.005),
        ("uformer_base", 0.005),
        # SkipAt's paper plots whole GMACs and tells neither which blocks skip nor what Φ is: 10.4 of 11 is the nearest
        # that this reading comes for T.
        ("skipat_uformer_tiny", 0.06),
        ("skipat_uformer_small", 0.01),
        ("skipat_uformer_base", 0.01),
    ],
)
def test_costs_come_near_the_published_ones(name: str, tolerance: float) -> None:
    cost = presets.by_hand(presets.shape_of(name))
    assert (cost.macs + cost.beyond) / 1e9 == pytest.approx(float(presets.PUBLISHED[name]), rel=tolerance)


def test_parameters_are_the_published_ones() -> None:
    params = [presets.by_hand(presets.shape_of(f"uformer_{size}")).params for size in ("tiny", "small", "base")]
    assert [f"{count / 1e6:.2f}" for count in params] == ["5.29", "20.75", "50.88"]
