"""Runs that start from trained weights: which are taken, and which are refused in which words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skipvit.checkpoints import load_model
from skipvit.models import Choices, SkipVisionTransformer, create_model
from train.distributed import Process
from train.pictures import open_data
from train.recipe import RecipeError, read_recipe
from train.run import main
from train.start import load_start
from train.task import open_task
from train.training import Training

ALONE = Process(0, 1, torch.device("cpu"))
SHAPE = "embed_dim=16, depth=3, num_heads=2"
SPEC = "static:0-1 tokens:1/2@2"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """A checkpoint of a plain ViT."""
    folder = tmp_path_factory.mktemp("vit")
    (folder / "tiny.toml").write_text(tiny_text)
    settings = ["run.steps=2", "model.name=vit_micro_patch2_8", f"model.args={{{SHAPE}}}"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert main([str(folder / "tiny.toml"), "--out", str(folder / "run"), *arguments]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, guided: list[str]) -> Path:
    """A checkpoint of a DGSSA + GLAD."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "tiny.toml").write_text(tiny_text)
    arguments = [word for setting in [*guided, "run.steps=2"] for word in ("--set", setting)]
    assert main([str(folder / "tiny.toml"), "--out", str(folder / "run"), *arguments]) == 0
    return folder / "run"


def begun(recipe: Path, weights: Path, *overrides: str) -> Training:
    read = read_recipe(recipe, [f"model.weights={weights}", *overrides])
    return Training.of(read, open_task(read, ALONE), ALONE)


def test_a_checkpoints_own_weights_are_taken_to_the_bit(tiny: Path, static: Path, guided: list[str]) -> None:
    training = begun(tiny, static, *guided, "guide.ramp=0")
    given = load_model(static)[0].state_dict()
    assert training.model.state_dict().keys() == given.keys()
    assert all(torch.equal(tensor, given[name]) for name, tensor in training.model.state_dict().items())
    assert training.ema is not None
    assert all(torch.equal(tensor, given[name]) for name, tensor in training.ema.shadow.items())
    assert training.started_from == f"weights of {static}"


def test_a_run_says_what_it_starts_from(
    tiny: Path, vit: Path, guided: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*guided, "run.steps=1", f"model.weights={vit}"]
    assert main([str(tiny), "--out", str(tmp_path / "run"), *(w for s in settings for w in ("--set", s))]) == 0
    assert (
        f"weights of {vit}; a plain ViT's, brought under '{SPEC}'; static matrices inherit" in capsys.readouterr().out
    )


def test_a_guided_model_from_a_plain_vit_is_that_vit_at_first(tiny: Path, vit: Path, guided: list[str]) -> None:
    training = begun(tiny, vit, *guided, f'model.args={{{SHAPE}, spec="static:0-1"}}')
    images = torch.randn(4, 3, 8, 8)
    training.set_guide(0)
    with torch.no_grad():
        expected = load_model(vit)[0](images)
        torch.testing.assert_close(training.model.eval()(images), expected, rtol=0, atol=1e-5)


def test_static_matrices_are_the_mean_attention_of_the_plain_vit(tiny: Path, vit: Path, guided: list[str]) -> None:
    training = begun(tiny, vit, *guided, "guide.ramp=0")
    plain, checkpoint = load_model(vit)
    held = open_data("builtin:digits").train.pixels  # type: ignore[attr-defined]
    chosen = held[np.linspace(0, len(held) - 1, 512).round().astype(int)].astype(np.float32) / 255
    mean, std = (np.array(getattr(checkpoint.preprocessing, name), np.float32) for name in ("mean", "std"))
    x = plain._pos_embed(plain.patch_embed(torch.from_numpy((chosen - mean) / std).permute(0, 3, 1, 2)))
    with torch.no_grad():
        for block, ours in zip(plain.blocks[:2], training.model.blocks, strict=False):
            q, k, _ = block.attn.qkv(block.norm1(x)).reshape(512, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
            a = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1).mean(0)
            torch.testing.assert_close(ours.attn.matrix(), a, rtol=0, atol=1e-6)
            x = block(x)


def test_a_head_of_other_classes_starts_fresh(vit: Path) -> None:
    model = create_model("vit_micro_patch2_8", embed_dim=16, depth=3, num_heads=2, num_classes=4)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = load_start(model, str(vit), list)
    assert said == f"weights of {vit}; a fresh head, for 4 classes where {vit} has other classes"
    given = load_model(vit)[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("head.") else given[name]), name


def test_a_calibrated_copy_of_a_vit_is_taken_under_its_presets_name(vit: Path, tmp_path: Path) -> None:
    """What a conversion leaves is called converted_vit; its weights are those of the model that is named here."""
    from safetensors.torch import save_file

    plain, checkpoint = load_model(vit)
    converted = SkipVisionTransformer.from_vit(plain, SPEC, Choices())
    save_file(converted.state_dict(), tmp_path / "model.safetensors")
    args = {"base": "vit_micro_patch2_8", "spec": SPEC, **checkpoint.model_args}
    described = checkpoint.model_copy(update={"architecture": "converted_vit", "model_args": args})
    (tmp_path / "checkpoint.json").write_text(described.model_dump_json())
    model = create_model("dgssa_glad_micro_patch2_8", embed_dim=16, depth=3, num_heads=2, spec=SPEC)
    load_start(model, str(tmp_path), list)
    assert all(torch.equal(tensor, converted.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("vit", ["model.args.embed_dim=32"], r"cannot become the model|is float32 .* and should be float32"),
        ("vit", ["model.args.depth=4"], r"missing blocks.3"),
        ("static", [], r"missing blocks.0.attn.qk.* start from the plain ViT$"),
        (
            "static",
            ["guide.ramp=0", "model.args.spec='tokens:1/2@2'"],
            r"missing blocks.0.attn.qkv.weight.* unexpected",
        ),
        ("static", ["guide.ramp=0", "model.args.spec='static:0-1 tokens:1/4@2'"], r"pyramids.2.logits is float32"),
    ],
)
def test_weights_of_another_model_are_refused(
    tiny: Path, vit: Path, static: Path, guided: list[str], source: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=f"model.weights.*(?:{message})") as caught:
        begun(tiny, {"vit": vit, "static": static}[source], *guided, *overrides)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_no_checkpoint_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model.weights = .* is neither a checkpoint .*: it has no checkpoint.json"):
        begun(tiny, tmp_path)
