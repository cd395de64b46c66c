"""Weight files: every wrapping that trainers use, what users of timm expect to fit, and what must not be let in."""

import argparse
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from skipvit import weights
from skipvit.models import create_model
from skipvit.weights import WeightsError, check_finite, fitted_to, load_weights, read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("container", ["", *weights.CONTAINERS])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappings_come_off(tmp_path: Path, container: str, prefix: str, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    wrapped: dict[str, Any] = {prefix + name: value for name, value in STATE.items()}
    if container:
        wrapped = {container: wrapped, "args": argparse.Namespace(lr=0.1), "epoch": 3, "optimizer": {"state": [None]}}
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    state = read_state(path)
    assert same(state.tensors, STATE)
    assert state.container == container


def test_the_average_is_preferred_unless_the_caller_has_another_order(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "state_dict_ema": {"a": torch.ones(1)}}, path)
    assert read_state(path).container == "state_dict_ema"
    assert read_state(path, ("model", "state_dict_ema")).tensors["a"] == 0


def test_safetensors_and_parameters_are_read_too(tmp_path: Path) -> None:
    save_file({f"module.{name}": value for name, value in STATE.items()}, tmp_path / "w.safetensors")
    assert same(read_state(tmp_path / "w.safetensors").tensors, STATE)
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "w.pth")
    assert read_state(tmp_path / "w.pth").tensors["a"].requires_grad is False


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({**STATE, "x": Evil(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"cannot be read safely as weights \(it asks for posix\.system\)") as caught:
        read_state(path)
    assert not marker.exists()
    assert "weights_only" not in str(caught.value)  # torch's own text recommends to switch the protection off
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file would run code, were it let"


def hostile(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "does not hold weights but a list"),
        ({"a": 3}, "a is a int, not a tensor"),
        ({"a": {"b": torch.ones(1)}}, "a is a dict, not a tensor"),
        ({1: torch.ones(1)}, "a int stands where a name should be"),
        ({"state_dict": {"a": "x"}}, "a is a str, not a tensor"),
        ({"a": torch.ones(1).expand(1 << 40)}, "a claims more elements than are stored"),
        ({"a": torch.eye(2).to_sparse()}, "a is not a dense tensor"),
        ({"a": torch.ones(2, device="meta")}, "a is not a dense tensor"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "names a twice"),
        ({"a\x1b[2J": 1}, r"a\\x1b\[2J is a int"),
    ],
)
def test_what_is_no_weight_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_state(hostile(tmp_path, content))


def test_files_are_bounded_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile(tmp_path, {"a": torch.zeros(1 << 20)})
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert bomb.stat().st_size < path.stat().st_size / 50
    with pytest.raises(WeightsError, match="is compressed"):
        read_state(bomb)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="cannot be read safely"):
        read_state(path)
    monkeypatch.setattr(weights, "_MAX_BYTES", 1 << 20)
    with pytest.raises(WeightsError, match="has 3 MiB, weights may have 1"):
        read_state(path)
    for gone in (tmp_path, tmp_path / "no.pth"):
        with pytest.raises(WeightsError, match="is not there"):
            read_state(gone)


def load(model: nn.Module, state: dict[str, Tensor]) -> str:
    fitted, done = fitted_to(model, state)
    load_weights(model, fitted, "w")
    return done


def vit(**kwargs: Any) -> Any:
    return create_model("vit_micro_patch2_8", **{"depth": 1, **kwargs})


def test_weights_fit_their_own_model_exactly() -> None:
    """Even on a grid that has the patch count of a square one, which timm's loader would take for that and resample."""
    source, target = vit(img_size=(4, 16)), vit(img_size=(4, 16))
    assert load(target, source.state_dict()) == ""
    assert same(target.state_dict(), source.state_dict())


def test_position_embeddings_of_another_resolution_are_resampled() -> None:
    source, target = vit(), vit(img_size=(12, 16))
    done = load(target, source.state_dict())
    assert done == "position embeddings resampled from 17 to 49 tokens"
    grid = source.pos_embed[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(6, 8), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 48, 64)
    torch.testing.assert_close(target.pos_embed[:, 1:], expected)
    torch.testing.assert_close(target.pos_embed[:, :1], source.pos_embed[:, :1])
    target.pos_embed.data = source.pos_embed.data
    assert same(target.state_dict(), source.state_dict()), "nothing else changes"


def test_what_files_of_timm_and_deit_look_like() -> None:
    distilled = create_model("deit_tiny_distilled_patch16_224", depth=1, num_classes=3, img_size=32)
    other = create_model("deit_tiny_distilled_patch16_224", depth=1, num_classes=3, img_size=32)
    load(other, distilled.state_dict())
    assert same(other.state_dict(), distilled.state_dict())
    # timm's first files hold the patch embedding as a linear layer, DeiT III's name LayerScale gamma_1 and gamma_2
    deit3 = create_model("deit3_small_patch16_224", depth=1, num_classes=3, img_size=32)
    old = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for name, value in deit3.state_dict().items()
    }
    assert "blocks.0.gamma_1" in old
    old["patch_embed.proj.weight"] = old["patch_embed.proj.weight"].flatten(1)
    other = create_model("deit3_small_patch16_224", depth=1, num_classes=3, img_size=32)
    load(other, old)
    assert same(other.state_dict(), deit3.state_dict())


def test_models_that_are_no_vit_load_as_ever() -> None:
    source, target = (create_model("resnet10t", num_classes=3) for _ in range(2))
    assert load(target, source.state_dict()) == ""
    assert same(target.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, r"w does not hold weights of this model: missing norm\.bias$"),
        ({"wing": torch.ones(1)}, "unexpected wing$"),
        ({"norm.bias": None, "wing": torch.ones(1)}, r"missing norm\.bias; unexpected wing$"),
        ({str(i): torch.ones(1) for i in range(5)}, "unexpected 0, 1, 2 and 2 more"),
        ({"head.weight": torch.ones(7, 64)}, r"head\.weight is float32 \(7, 64\) and should be float32 \(10, 64\)"),
        ({"norm.bias": torch.ones(64, dtype=torch.int64)}, r"norm\.bias is int64 \(64,\) and should be float32"),
        ({"norm.bias": torch.ones(64, dtype=torch.complex64)}, r"norm\.bias is complex64"),
        ({"patch_embed.proj.weight": torch.ones(64, 3, 4, 4)}, r"patch_embed\.proj\.weight is float32 \(64, 3, 4, 4\)"),
        ({"pos_embed": torch.ones(1, 16, 64)}, r"pos_embed is float32 \(1, 16, 64\)"),
        ({"encoder": torch.ones(1)}, "unexpected encoder"),
        ({"norm.bias": torch.full((64,), float("nan"))}, r"w: 64 of the 64 values of norm\.bias are NaN or infinite"),
        ({"norm.bias": torch.full((64,), 1e300, dtype=torch.float64)}, r"64 values of norm\.bias are NaN or infinite"),
    ],
)
def test_how_weights_differ_is_said(change: dict[str, Tensor | None], message: str) -> None:
    state = {**vit().state_dict(), **change}
    with pytest.raises(WeightsError, match=message):
        load(vit(), {name: value for name, value in state.items() if value is not None})


def test_the_first_bad_tensor_is_named() -> None:
    state = {"fine": torch.ones(2), "count": torch.tensor(3), "bad": torch.tensor([1.0, float("inf")])}
    with pytest.raises(WeightsError, match="w: 1 of the 2 values of bad are NaN or infinite"):
        check_finite({**state, "worse": torch.tensor(float("nan"))}, "w")
    state.pop("bad")
    check_finite(state, "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save({"model": STATE}, path, _use_new_zipfile_serialization=kind == "zip")
    whole, chance = path.read_bytes(), random.Random(0)
    messages = []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 3, 20))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])
        try:
            read_state(path)  # some damage changes numbers only
        except WeightsError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert [message for message in messages if "\n" in message or len(message) > 600] == []
