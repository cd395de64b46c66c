"""What a preset costs, by closed forms that know nothing of the model's code."""

import pytest

from benchmarks import denoiser_presets, presets
from benchmarks.cli import main
from skipvit.models.spec import Spec
from skipvit.models.timm_guard import timm

SMALL = presets.Shape(dim=384, depth=12, heads=6, patch=16, grid=(14, 14), classes=1000, phi_kernel=5)


@pytest.mark.parametrize(
    ("spec", "params", "gmacs"),
    [("", 22_050_664, 4.5989), ("skip:3-8", 22_163_578, 4.4391)],  # the released code's
)
def test_closed_forms_give_the_published_figures(spec: str, params: int, gmacs: float) -> None:
    assert presets.params_by_hand(SMALL, Spec.parse(spec)) == params
    assert round(presets.macs_by_hand(SMALL, Spec.parse(spec)) / 1e9, 4) == gmacs


def test_every_preset_is_listed() -> None:
    ours = set(timm.list_models(module="registry")) - {"converted_vit"}
    assert ours <= set(presets.names())
    assert len(presets.names()) == len(set(presets.names()))


def test_counted_and_closed_form_agree_to_the_last_unit() -> None:
    names = [name for name in presets.names() if "micro" in name or "small_patch16_384" in name]
    assert len(names) == 10
    assert {row["name"]: row["equal"] for row in presets.table(names)} == dict.fromkeys(names, "yes")


def test_a_preset_that_costs_something_else_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(presets, "names", lambda: ["vit_micro_patch2_8", "glad_micro_patch2_8"])
    monkeypatch.setattr(denoiser_presets, "names", lambda: ["skipat_uformer_micro"])
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert "tokens:1/2@2,1/4@4" in printed
    assert "skipat_uformer_micro" in printed
    monkeypatch.setattr(presets, "macs_by_hand", lambda *_: 1)
    assert main(["presets"]) == 1
    assert "differ for vit_micro_patch2_8, glad_micro_patch2_8" in capsys.readouterr().err
