"""Where models come from: checkpoints, names and weight files, and what each is refused for."""

import pytest

from skipvit import origin
from skipvit.models import create_model


def test_timms_own_evaluation_rule_is_kept() -> None:
    """A tag that was evaluated on squashed pictures is served squashed; one that we cannot honour is refused."""
    model = create_model("vit_micro_patch2_8")
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "squash"}
    assert origin._preprocessing("x", model, {}).resize == "squash"
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "border"}
    with pytest.raises(origin.OriginError, match="crop_mode border"):
        origin._preprocessing("x", model, {})
