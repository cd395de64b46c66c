"""Which weights decay, how gradients are clipped, and what state AdamW has."""

import pytest
import torch
from torch import nn

from skipvit.models import create_model
from train.optim import adamw, clip_gradients, set_learning_rate, start_state


def test_only_matrices_decay() -> None:
    model = create_model("skipat_micro_patch2_8")
    optimizer = adamw(model, 1e-3, 0.05, (0.9, 0.999), 1e-8)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    kept = {names[id(p)] for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert decayed | kept == set(names.values())
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias", "blocks.2.phi.dwconv.bias"} <= kept
    assert {"head.weight", "patch_embed.proj.weight", "blocks.2.phi.fc1.weight", "blocks.0.attn.qkv.weight"} <= decayed
    assert not [name for name in decayed if name.endswith("bias") or ".norm" in name]


@pytest.mark.parametrize(("limit", "factor"), [(1.0, 0.1), (0.0, 1.0), (20.0, 1.0)])
def test_clipping_scales_the_joint_norm(limit: float, factor: float) -> None:
    layer = nn.Linear(2, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[6.0, 0.0]]), torch.tensor([8.0])
    assert clip_gradients(layer, limit) == pytest.approx(10.0)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[6.0 * factor, 0.0]]), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.bias.grad, torch.tensor([8.0 * factor]), rtol=1e-5, atol=0)


def test_prepared_state_changes_no_step() -> None:
    plain, prepared = nn.Linear(3, 2), nn.Linear(3, 2)
    prepared.load_state_dict(plain.state_dict())
    optimizers = [adamw(m, 1e-2, 0.1, (0.9, 0.99), 1e-8) for m in (plain, prepared)]
    start_state(optimizers[1])
    for model, optimizer in zip((plain, prepared), optimizers, strict=True):
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(plain.weight, prepared.weight)
    assert torch.equal(plain.bias, prepared.bias)


def test_rate_is_set_in_every_group() -> None:
    optimizer = adamw(nn.Linear(2, 2), 1.0, 0.1, (0.9, 0.99), 1e-8)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
