"""Where models come from: checkpoints, names and weight files, and what each is refused for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skipvit import origin
from skipvit.models import create_model
from tests.skipvit.released_skipat import released


def test_timms_own_evaluation_rule_is_kept() -> None:
    """A tag that was evaluated on squashed pictures is served squashed; one that we cannot honour is refused."""
    model = create_model("vit_micro_patch2_8")
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "squash"}
    assert origin.evaluation_preprocessing("x", model, {}).resize == "squash"
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "border"}
    with pytest.raises(origin.OriginError, match="crop_mode border"):
        origin.evaluation_preprocessing("x", model, {})


def test_a_name_with_a_file_says_where_the_weights_are_from(tmp_path: Path) -> None:
    source = create_model("vit_micro_patch2_8", num_classes=3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    exact = origin.resolve("vit_micro_patch2_8", tmp_path / "w.safetensors", False, {"num_classes": 3})
    assert exact.weights_from == "file w.safetensors"
    assert torch.equal(exact.model.state_dict()["head.weight"], source.state_dict()["head.weight"])
    assert (exact.labels, exact.samples) == (("class 0", "class 1", "class 2"), None)
    assert not exact.model.training
    larger = {"num_classes": 3, "img_size": 12}
    resampled = origin.resolve("vit_micro_patch2_8", tmp_path / "w.safetensors", False, larger)
    assert resampled.weights_from == "file w.safetensors, position embeddings resampled from 17 to 37 tokens"
    assert (resampled.preprocessing.height, resampled.model_args) == (12, larger)
    again = create_model(resampled.architecture, **resampled.model_args)
    assert again.state_dict().keys() == resampled.model.state_dict().keys()
    with pytest.raises(origin.OriginError, match=r"head\.weight is float32 \(3, 64\) and should be float32 \(10, 64\)"):
        origin.resolve("vit_micro_patch2_8", tmp_path / "w.safetensors", False, {})


@pytest.mark.parametrize("model_args", [{"num_heads": 0}, {"patch_size": 0}, {"spec": 5}, {"phi_expansion": 1e400}])
def test_arguments_that_no_model_takes_are_refused(model_args: dict[str, object]) -> None:
    with pytest.raises((origin.OriginError, ValueError), match=r"--model-arg|a spec is a text"):
        origin.resolve("skipat_micro_patch2_8", None, False, model_args)


def test_a_released_skipat_file_is_sent_to_the_program_for_it(tmp_path: Path) -> None:
    torch.save({"model": released(16, 4, 2, 3)}, tmp_path / "tiny.t7")
    with pytest.raises(origin.OriginError, match=r"skipvit-convert --from-official .*tiny\.t7 --out FOLDER"):
        origin.resolve("skipat_micro_patch2_8", tmp_path / "tiny.t7", False, {})
