"""The program, from checkpoint to repository entry, and everything it refuses."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from tritonclient.grpc import model_config_pb2

from export import parity
from export.engine_inputs import inputs_for
from export.engine_target import EntryTarget
from export.to_onnx import main
from skipvit.artifacts import read_entry
from skipvit.checkpoints import Checkpoint, load_model, save_checkpoint
from skipvit.manifest import Evaluation
from skipvit.models import create_model
from skipvit.transforms import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with weights far from their start, so that a dropped bias or gate would show."""
    torch.manual_seed(0)
    model = create_model("skipat_micro_patch2_8", num_classes=4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    description = Checkpoint(
        architecture="skipat_micro_patch2_8",
        model_args={"num_classes": 4},
        labels=("circle", "square", "star", "Dreieck ü"),
        preprocessing=Preprocessing(height=8, width=8, resize="squash", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        recipe={},
        evaluation=Evaluation(dataset="shapes", images=40, metrics={"top1": 0.9}),
        epochs=3,
        versions={},
        commit="abc",
    )
    save_checkpoint(folder, model.state_dict(), description, (PICTURES, np.zeros(40, dtype=np.int64)))
    return folder


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    assert main([str(checkpoint), "--out", str(root), "--precision", "fp32,fp16"]) == 0
    return root


def test_manifest_says_what_was_written(exported: Path) -> None:
    entry = read_entry(exported, "shapes")
    manifest = entry.manifest
    assert entry.labels == ("circle", "square", "star", "Dreieck ü")
    assert manifest.models == {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
    compared = {f"compared-{number:02}.png" for number in range(16)}
    assert set(manifest.files) == {"model.onnx", "model.fp16.onnx", "labels.txt", *compared}
    assert [p.precision for p in manifest.parity] == ["fp32", "fp16"]
    assert manifest.parity[0].images == 40
    assert "evaluation pictures of shapes" in manifest.parity[0].images_from
    assert 0 < manifest.parity[0].max_abs <= 1e-4
    assert manifest.parity[0].max_abs < manifest.parity[1].max_abs
    assert manifest.evaluation is not None
    assert manifest.params == sum(p.numel() for p in create_model("skipat_micro_patch2_8", num_classes=4).parameters())
    assert not [p.name for p in (exported / "shapes").iterdir() if p.name.startswith(".")]


def test_an_engine_is_compared_on_the_pictures_that_came_with_its_entry(exported: Path) -> None:
    entry = read_entry(exported, "shapes")
    assert entry.manifest.samples == (), "they are for engines, not for a page"
    inputs = inputs_for(EntryTarget(entry, "fp32"), {"images": ((1, 8, 8, 3), (8, 8, 8, 3), (64, 8, 8, 3))}, None)
    assert (inputs.images, inputs.real, inputs.source) == (16, True, "16 pictures of the entry")
    chosen = PICTURES[np.linspace(0, 39, 16, dtype=int)]
    np.testing.assert_array_equal(np.concatenate([batch["images"] for batch in inputs.batches]), chosen)


def test_a_fresh_process_needs_onnx_runtime_alone(exported: Path, checkpoint: Path) -> None:
    code = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = numpy.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=numpy.uint8)
logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
assert "torch" not in sys.modules
assert numpy.allclose(probabilities.sum(1), 1, atol=1e-5)
numpy.save(sys.argv[2], logits)
"""
    path = exported / "shapes" / "1" / "model.onnx"
    out = exported / "logits.npy"
    subprocess.run([sys.executable, "-c", code, str(path), str(out)], check=True)
    model, description = load_model(checkpoint)
    expected = parity.torch_logits(model, description.preprocessing, PICTURES)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-4)
    out.unlink()


def test_graph_holds_our_ops_their_bodies_and_nothing_of_this_machine(exported: Path) -> None:
    path = exported / "shapes" / "1" / "model.onnx"
    graph = onnx.load(path)
    nodes = [node for node in graph.graph.node if node.domain == "skipvit"]
    assert sorted({node.op_type for node in nodes}) == ["EcaGate", "TokenDwConvGelu"]
    assert {f.name for f in graph.functions} == {"EcaGate", "TokenDwConvGelu"}
    for node in nodes:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_namespace"] == b"skipvit"
        assert attributes["plugin_version"] == b"1"
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    raw = path.read_bytes()
    assert str(ROOT).encode() not in raw
    assert b".py" not in raw


def test_config_is_what_triton_reads(exported: Path) -> None:
    config = model_config_pb2.ModelConfig()
    text_format.Parse((exported / "shapes" / "config.pbtxt").read_text(), config)
    assert config.name == "shapes"
    assert config.backend == "onnxruntime"
    assert [(i.name, list(i.dims), i.data_type) for i in config.input] == [
        ("images", [8, 8, 3], model_config_pb2.TYPE_UINT8)
    ]
    assert {o.name: (list(o.dims), o.label_filename) for o in config.output} == {
        "logits": ([4], "labels.txt"),
        "probabilities": ([4], "labels.txt"),
    }


def test_versions_count_up_and_labels_are_shared(
    exported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "labels.txt"
    other.write_text("a\nb\nc\nd\n")
    options = ["--out", str(exported)]
    assert main([str(checkpoint), *options, "--version", "1"]) == 1
    assert "exists; give another --version" in capsys.readouterr().err
    assert main([str(checkpoint), *options, "--labels", str(other)]) == 1
    assert "has other labels" in capsys.readouterr().err
    assert main([str(checkpoint), *options, "--precision", "fp16"]) == 1
    assert "config.pbtxt describes another file or other shapes" in capsys.readouterr().err
    assert main([str(checkpoint), *options]) == 0
    assert "model.onnx" in capsys.readouterr().out
    assert read_entry(exported, "shapes").manifest.version == 2


def test_a_miss_exits_non_zero_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "_FP32_MAX_ABS", 0.0)
    assert main([str(checkpoint), "--out", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert "model.onnx strays from the PyTorch model: max abs" in error
    assert "Nothing was written" in error
    assert list((tmp_path / "models").rglob("*")) == []


def test_small_logits_do_not_slip_through(exported: Path, tmp_path: Path) -> None:
    """A fifth missing from every logit is a miss, be the logits ever so small."""
    path = exported / "shapes" / "1" / "model.onnx"
    found = parity.onnx_logits(path, PICTURES)
    graph = onnx.load(path)
    factor = 1e-4 / float(np.abs(found).max())
    for node in graph.graph.node:
        node.output[:] = ["logits_before" if name == "logits" else name for name in node.output]
        node.input[:] = ["logits_before" if name == "logits" else name for name in node.input]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.8 * factor, np.float32), "factor"))
    graph.graph.node.append(onnx.helper.make_node("Mul", ["logits_before", "factor"], ["logits"]))
    onnx.save(graph, tmp_path / "model.onnx")
    pictures = parity.Pictures(PICTURES, "pictures", real=True)
    with pytest.raises(parity.ParityError, match="relative"):
        parity.compare((found * factor).astype(np.float32), tmp_path / "model.onnx", "fp32", pictures)


def test_the_gate_sees_one_changed_weight(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Parity is no formality: a file with one bias of one Φ moved by a tenth does not pass."""
    graph = onnx.load(exported / "shapes" / "1" / "model.onnx")
    bias = next(i for i in graph.graph.initializer if i.name.endswith("phi.fc2.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values += 0.1
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(graph, tmp_path / "model.onnx")
    model, description = load_model(checkpoint)
    reference = parity.torch_logits(model, description.preprocessing, PICTURES)
    pictures = parity.Pictures(PICTURES, "pictures", real=True)
    with pytest.raises(parity.ParityError, match="strays from the PyTorch model"):
        parity.compare(reference, tmp_path / "model.onnx", "fp32", pictures)


def test_the_oldest_opset_runs_too(checkpoint: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--out", str(tmp_path), "--opset", "18"]) == 0
    graph = onnx.load(tmp_path / "shapes" / "1" / "model.onnx")
    assert {i.domain: i.version for i in graph.opset_import} == {"": 18, "skipvit": 1}


def test_any_timm_model_by_name_with_weights_and_pictures_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model-arg", "num_classes=3", "--model-arg", "img_size=[32,48]", "--model-arg", "depth=2"]
    model = create_model("vit_tiny_patch16_224", num_classes=3, img_size=(32, 48), depth=2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    Image.effect_noise((100, 60), 80).save(tmp_path / "pictures" / "a" / "grey.png")
    Image.new("CMYK", (50, 90), (10, 200, 30, 0)).save(tmp_path / "pictures" / "cmyk.jpg")
    for version, weights in enumerate(("w.safetensors", "w.pth"), start=1):
        options = ["--weights", str(tmp_path / weights), "--images", str(tmp_path / "pictures")]
        assert main(["vit_tiny_patch16_224", "--out", str(tmp_path / "models"), *arguments, *options]) == 0
        manifest = read_entry(tmp_path / "models", "vit_tiny_patch16_224").manifest
        assert manifest.version == version
        assert manifest.inputs[0].shape == ("batch", 32, 48, 3)
        assert manifest.weights_from == f"file {weights}"
        assert manifest.parity[0].images_from == "2 pictures of pictures"
    path = tmp_path / "models" / "vit_tiny_patch16_224" / "2" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    capsys.readouterr()


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_bad_input_gets_a_plain_message_and_no_folder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    torch.save(Evil(), tmp_path / "evil.pth")
    (tmp_path / "garbage.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"not a picture")
    save_file({"head.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    small_samples = tmp_path / "small_samples"
    shutil.copytree(checkpoint, small_samples)
    np.savez(small_samples / "samples.npz", images=np.zeros((1, 16, 16, 3), np.uint8), labels=np.array([0]))
    cases = [
        (["no_such_model"], "no model is named 'no_such_model'"),
        ([str(empty)], "is not a checkpoint"),
        (["runs/nothing"], "is not a checkpoint"),
        ([str(checkpoint), "--name", "../up"], "cannot name a model or file"),
        ([str(checkpoint), "--pretrained"], "brings its own weights"),
        ([str(checkpoint), "--images", str(empty)], "holds no picture"),
        ([str(checkpoint), "--images", str(tmp_path / "broken")], "x.png cannot be read as a picture"),
        (["skipat_micro_patch2_8", "--weights", str(tmp_path / "evil.pth")], "cannot be read safely"),
        (["skipat_micro_patch2_8", "--weights", str(tmp_path / "garbage.safetensors")], "does not hold weights"),
        (["skipat_micro_patch2_8", "--weights", str(tmp_path / "other.safetensors")], "does not hold weights"),
        (["skipat_micro_patch2_8", "--weights", str(tmp_path / "gone.pth")], "is not there"),
        (["skipat_micro_patch2_8", "--model-arg", "wings=2"], "cannot be built without weights and wings=2"),
        (["skipat_micro_patch2_8", "--model-arg", "depth=0"], "names blocks [2, 3, 4, 5]"),
        (["skipat_micro_patch2_8", "--model-arg", "num_classes=0"], "has no classifier head"),
        (["skipat_micro_patch2_8", "--model-arg", "in_chans=1"], "pictures have 3 channels, got in_chans=1"),
        (["skipat_micro_patch2_8", "--model-arg", "features_only=true"], "is no classifier"),
        (["skipat_micro_patch2_8", "--model-arg", 'checkpoint_path="x"'], "would load weights from elsewhere"),
        (["skipat_micro_patch2_8", "--pretrained"], "cannot be built with timm's weights"),
        (["vit_tiny_patch16_224.nonexist"], "cannot be built"),
        ([str(small_samples)], "holds pictures of (16, 16), the model takes (8, 8)"),
        (["skipat_micro_patch2_8", "--model-arg", "skip=[7]"], "cannot skip under a class-token head"),
    ]
    for arguments, message in cases:
        assert main([*arguments, "--out", str(tmp_path / "models")]) == 1, arguments
        captured = capsys.readouterr()
        assert message in captured.err, arguments
        assert "Traceback" not in captured.err
        assert "code ran" not in captured.out
    assert not (tmp_path / "models").exists() or list((tmp_path / "models").rglob("*")) == []


def test_an_out_that_is_a_file_is_named(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([str(checkpoint), "--out", str(tmp_path / "file")]) == 1
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(checkpoint: Path, tmp_path: Path, stop: signal.Signals) -> None:
    command = [sys.executable, str(ROOT / "export" / "to_onnx.py"), str(checkpoint), "--out", str(tmp_path / "m")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "m").glob("*/.staging-*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(stop)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in error
    assert "Traceback" not in error
    assert list((tmp_path / "m").rglob("*")) == []


@pytest.mark.parametrize(
    "arguments", [["x", "--precision", "int3"], ["x", "--version", "0"], ["x", "--model-arg", "a"]]
)
def test_bad_options_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "needs" in capsys.readouterr().err


def test_help_needs_the_base_install_only() -> None:
    """As a script, from another folder, with every heavy package hidden."""
    code = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "torch timm torchvision onnx onnxscript onnxruntime tqdm safetensors".split():
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = [sys.argv[1], *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    script = str(ROOT / "export" / "to_onnx.py")
    done = subprocess.run([sys.executable, "-c", code, script, "--help"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python export/to_onnx.py runs/digits_skipat" in done.stdout
    done = subprocess.run([sys.executable, "-c", code, script, "x"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'skipvit[export]'" in done.stderr


def test_the_last_line_is_for_machines(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint), "--out", str(tmp_path), "--no-parity"]) == 0
    out = capsys.readouterr().out
    assert "nothing vouches for this export" in out
    assert json.loads(out.splitlines()[-1])["parity"] == []
