"""skipvit-convert under a spec, from the outside: what it leaves, that it goes on after a stop, what it refuses."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.to_onnx import main as to_onnx
from skipvit.artifacts import read_entry
from skipvit.checkpoints import Checkpoint, load_model, read_checkpoint, read_samples, save_checkpoint
from skipvit.models import create_model
from skipvit.transforms import Preprocessing
from train import imitation
from train.augment import GlyphDistortion
from train.convert import main
from train.evaluate import main as evaluate
from train.run import main as train
from train.variation import Glyphs, variation_for

SPEC = "static:0-1 skip:3 tokens:1/2@2"
ARGS = {"embed_dim": 16, "depth": 5, "num_heads": 2, "num_classes": 10, "img_size": 8}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of random weights, large enough for its answers to differ from picture to picture."""
    torch.manual_seed(0)
    model = create_model("vit_micro_patch2_8", **ARGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("original") / "vit"
    pre = Preprocessing(height=8, width=8, resize="squash", interpolation="box", mean=(0.5,) * 3, std=(0.5,) * 3)
    description = Checkpoint(
        architecture="vit_micro_patch2_8", model_args=ARGS, labels=tuple("0123456789"), preprocessing=pre,
        recipe={"augment": {"kind": "none"}}, epochs=1, versions={}, commit="unknown",
    )  # fmt: skip
    save_checkpoint(folder, model.state_dict(), description)
    return folder


def options(original: Path, out: Path, *more: str) -> list[str]:
    return [
        str(original),
        "--spec",
        SPEC,
        "builtin:digits",
        "--out",
        str(out),
        "--limit",
        "200",
        "--steps",
        "24",
        *more,
    ]


def test_a_conversion_leaves_a_checkpoint(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "converted"
    assert main(options(original, out, "--phi-kernel-size", "3", "--class-row", "dynamic")) == 0
    printed = capsys.readouterr().out.splitlines()
    last = json.loads(printed[-1])
    stages = [line.split()[0] for line in printed if line.endswith("x")]
    assert stages == ["original", "pooled", "calibrated", "skipped", "distilled"] * 2, "as they come, and as a table"
    model, description = load_model(out)
    assert description.architecture == "converted_vit"
    made = {"base": "vit_micro_patch2_8", "spec": SPEC, **ARGS, "phi_kernel_size": 3, "static_class_row": "dynamic"}
    assert description.model_args == made
    before = read_checkpoint(original)
    assert (description.labels, description.preprocessing) == (before.labels, before.preprocessing)
    assert description.recipe["converted_from"].startswith("vit_micro_patch2_8 (checkpoint vit, 1 epochs")
    assert description.recipe["settings"]["spec"] == SPEC
    assert [stage["name"] for stage in description.recipe["stages"]] == stages[:5]
    first, *_, skipped, distilled = description.recipe["stages"]
    assert (first["agreement"], first["kl"]) == (1, 0)
    assert distilled["kl"] < skipped["kl"]
    assert last["agreement"] == distilled["agreement"]
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.json", "conversion.json", "model.safetensors", "samples.npz",
    ]  # fmt: skip
    images, labels = read_samples(out) or pytest.fail("no samples")
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        top1 = float((model(inputs).argmax(dim=1).numpy() == labels).mean())
    assert description.evaluation is not None
    assert top1 == pytest.approx(description.evaluation.metrics["top1"]) == pytest.approx(last["top1"])
    assert evaluate([str(out)]) == 0, "the data set is in the recipe"
    capsys.readouterr()


def test_it_exports(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    assert main(options(original, out, "--steps", "0")) == 0
    assert to_onnx([str(out), "--out", str(tmp_path / "models")]) == 0
    manifest = read_entry(tmp_path / "models", "converted").manifest
    assert manifest.parity[0].max_abs <= 1e-3
    assert "50 evaluation pictures" in manifest.parity[0].images_from
    assert "converted from vit_micro_patch2_8 (checkpoint vit" in manifest.weights_from


def test_pictures_in_a_folder_need_no_classes(
    original: Path, tmp_path: Path, picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(20):
        picture(tmp_path / "photos" / f"{i:02}.png", seed=i)
    out = tmp_path / "converted"
    command = [str(original), str(tmp_path / "photos"), "--spec", "skip:2", "--steps", "3", "--minutes", "5"]
    assert main([*command, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["top1"] is None
    assert read_checkpoint(out).evaluation is None
    model, _ = load_model(original)
    images, labels = read_samples(out) or pytest.fail("no samples")
    with torch.no_grad():
        answers = model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).argmax(dim=1)
    assert (labels == answers.numpy()).all(), "for want of a class, what the original says"


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    honest = imitation._step

    def acting(lesson: Any, optimizer: Any, pictures: list[int], now: int, steps: int) -> float:
        if now == step:
            act()
        return honest(lesson, optimizer, pictures, now, steps)

    monkeypatch.setattr(imitation, "_step", acting)


def crash() -> None:
    raise RuntimeError("as if killed")


def test_a_stopped_conversion_goes_on_bit_for_bit(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped, killed = (tmp_path / name for name in ("whole", "stopped", "killed"))
    assert main(options(original, whole)) == 0
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, 5 if status == 0 else 17, lambda number=number: os.kill(os.getpid(), number))
            assert main(options(original, stopped, "--resume")) == status
        assert not (stopped / "checkpoint.json").exists()
    for step in (1, 11):  # before the first state and after it
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, crash)
            with pytest.raises(RuntimeError, match="as if killed"):
                main(options(original, killed, "--resume"))
    for out in (stopped, killed):
        assert main(options(original, out)) == 1
        assert "go on with --resume" in capsys.readouterr().err
        assert main(options(original, out, "--resume", "--lr", "1e-4")) == 1
        assert "lr: 0.0001, was None" in capsys.readouterr().err
        assert main(options(original, out, "--resume")) == 0
        assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        stages = read_checkpoint(out).recipe["stages"]
        assert [stage["name"] for stage in stages] == ["original", "pooled", "calibrated", "skipped", "distilled"]
        assert not (out / "state").exists()
    capsys.readouterr()
    assert main(options(original, whole, "--resume")) == 0
    assert "holds the finished conversion" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["pictures", "weights"])
def test_a_conversion_does_not_go_on_with_other_pictures_or_another_original(
    original: Path,
    tmp_path: Path,
    picture: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: str,
) -> None:
    model, photos = tmp_path / "vit", tmp_path / "photos"
    shutil.copytree(original, model)
    for i in range(12):
        picture(photos / f"{i}.png", seed=i)
    command = [str(model), str(photos), "--spec", SPEC, "--out", str(tmp_path / "out"), "--steps", "6", "--resume"]
    interrupt_at(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(command) == 0
    monkeypatch.undo()
    if changed == "pictures":
        picture(photos / "3.png", seed=99)
    else:
        weights = load_file(model / "model.safetensors")
        save_file({**weights, "head.bias": weights["head.bias"] + 1e-3}, model / "model.safetensors")
    assert main(command) == 1
    assert "has changed since" in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoint.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recipe", {"augment": {"kind": "digits", "rotation": "far"}}, "recipe.augment.rotation"),
        ("labels", list("01234"), "has 10 classes and 5 labels"),
    ],
)
def test_a_damaged_description_is_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object, message: str
) -> None:
    shutil.copytree(original, tmp_path / "vit")
    path = tmp_path / "vit" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert main(options(tmp_path / "vit", tmp_path / "out")) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_says_less_of_its_digits_has_the_defaults(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "vit")
    path = tmp_path / "vit" / "checkpoint.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "recipe": {"augment": {"kind": "digits", "shear": 0.3}}})
    )
    defaults = GlyphDistortion(margin=0.25, thickness=0.5, contrast=0.5, plain=0.2)
    assert variation_for(str(tmp_path / "vit"), "auto") == Glyphs(replace(defaults, shear=0.3))


def test_what_is_refused_leaves_nothing(
    original: Path, tmp_path: Path, picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for i in range(5):
        picture(tmp_path / "few" / f"{i}.png", seed=i)
    weights = create_model("vit_micro_patch2_8").state_dict()
    torch.save({**weights, "head.bias": torch.full((10,), float("nan"))}, tmp_path / "nan.pth")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary.txt").write_text("dear diary")
    micro, good = "vit_micro_patch2_8", "builtin:digits"
    cases = [
        ([micro, good, "--spec", "statik:0"], "cannot be read at 'statik:0'"),
        ([micro, good, "--spec", ""], "the spec is empty"),
        ([micro, good, "--spec", "skip:7"], "is the last and cannot skip under a class-token head"),
        ([micro, good, "--spec", "static:9"], "the model has blocks 0 to 7"),
        ([micro, good, "--spec", "tokens:7@2"], "form no grid within 4 x 4"),
        (
            ["resnet18", good, "--spec", "skip:2"],
            "only timm's plain VisionTransformer can take a spec, this is a ResNet",
        ),
        (["skipat_micro_patch2_8", good, "--spec", "skip:2"], "made under a spec already; give the plain ViT"),
        (["vit_nano", good, "--spec", "skip:2"], "no model is named 'vit_nano'"),
        ([micro, good, "--spec", "skip:2", "--model-arg", "num_classes=0"], "is no classifier"),
        ([micro, good, "--spec", "skip:2", "--weights", str(tmp_path / "nan.pth")], "NaN or infinite"),
        ([micro, good, "--spec", "skip:2", "--weights", str(tmp_path / "gone.pth")], "gone.pth is not there"),
        ([str(tmp_path / "few"), good, "--spec", "skip:2"], "is not a checkpoint"),
        ([micro, str(tmp_path / "empty"), "--spec", "skip:2"], "holds no picture"),
        ([micro, str(tmp_path / "few"), "--spec", "skip:2"], "gives 4 pictures to learn from and 1 to measure on"),
        ([micro, str(tmp_path / "gone"), "--spec", "skip:2"], "there is no folder"),
        (["m" * 300, good, "--spec", "skip:2"], "no model is named 'mmm"),
        ([micro, "x" * 300, "--spec", "skip:2"], "there is no folder"),
        (
            [micro, good, "--spec", "skip:2", "--out", str(tmp_path / "few" / "0.png" / "out")],
            "is a file; give a folder",
        ),
        ([micro, "builtin:cats", "--spec", "skip:2"], "names no data set"),
        ([micro, good, "--spec", "skip:2", "--out", str(tmp_path / "taken")], "exists and is no conversion"),
        (
            [str(original), good, "--spec", "skip:2", "--lr", "1e18", "--limit", "99"],
            "nothing was kept: try a lower --lr",
        ),
    ]
    before = sorted(tmp_path.rglob("*"))
    for command, message in cases:
        out = [] if "--out" in command else ["--out", str(tmp_path / "new" / "out")]
        assert main([*command, *out]) == 1, command
        error = capsys.readouterr().err
        assert message in error, command
        assert "Traceback" not in error
        found = [path for path in sorted(tmp_path.rglob("*")) if path != tmp_path / "new"]
        assert found == before, command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give MODEL, IMAGES and --spec, or --from-official FILE"),
        (["vit", "--spec", "skip:2"], "give MODEL, IMAGES and --spec"),
        (["vit", "photos", "--spec", "skip:2", "--steps", "-1"], "needs a whole number from 0 up"),
        (["vit", "photos", "--spec", "skip:2", "--lr", "nan"], "needs a positive number"),
        (["vit", "photos", "--spec", "skip:2", "--phi-kernel-size", "4"], "needs an odd number"),
        (["vit", "photos", "--spec", "skip:2", "--model-arg", "x"], "needs KEY=JSON"),
        (["vit", "photos", "--spec", "skip:2", "--num-heads", "3"], "go with --from-official"),
        (["--from-official", "x.t7"], "--from-official needs --out"),
        (["vit", "photos", "--spec", "skip:2", "--from-official", "x.t7"], "--from-official stands alone"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("spec", ["skip:2-5", "static:0-2", "tokens:1/2@2,1/4@4", "static:0-1 skip:4-5 tokens:1/2@2"])
def test_digits_lose_no_more_than_a_point_over_three_seeds(
    spec: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point is 3.6 of the 360 scans; one seed alone may lose more. train/imitation.py has what was measured."""
    lost = []
    for seed in range(3):
        teacher = tmp_path_factory.getbasetemp() / f"teacher{seed}"
        if not (teacher / "checkpoint.json").exists():
            assert train(["digits_vit", "--out", str(teacher), "--set", f"run.seed={seed}"]) == 0
        command = [str(teacher), "builtin:digits-and-drawings", "--spec", spec, "--phi-kernel-size", "3"]
        capsys.readouterr()
        assert main([*command, "--out", str(tmp_path / f"converted{seed}")]) == 0
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        lost.append(last["original_top1"] - last["top1"])
    assert sum(lost) / 3 <= 0.01
