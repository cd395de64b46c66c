"""A denoiser from model to repository entry: a small one that no rewrite is known for, so that it deploys as it is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from PIL import Image
from torch import Tensor, nn
from tritonclient.grpc import model_config_pb2

from export import restoration
from export.denoising import DenoisingJob, plan_tiling, sample_names
from export.deploy_denoiser import DeployDenoiser
from export.entry import Plan, export_entry
from export.measures import ParityError
from export.noisy_pictures import noisy_batch
from export.to_onnx import main
from skipvit import tiling
from skipvit.artifacts import read_entry
from skipvit.checkpoints import CleanSamples
from skipvit.denoiser_origin import DenoiserOrigin
from skipvit.manifest import Tiling
from skipvit.origin import task_of

PICTURES = np.random.default_rng(0).integers(0, 256, (10, 20, 28, 3), dtype=np.uint8)
NAMES = ("cat", "cat", "a/../b", "flower 1", "ü", "f", "g", "h", "i", "j")


class Residual(nn.Module):
    """A picture, and what a convolution at half resolution makes of it."""

    task = "denoising"
    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)
        self.up = nn.ConvTranspose2d(8, 3, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.down(x)).permute(0, 2, 3, 1)
        y = self.mix(y).softmax(-1).permute(0, 3, 1, 2)
        result: Tensor = x + self.up(y)
        return result


def origin(model: nn.Module) -> DenoiserOrigin:
    return DenoiserOrigin(
        task="denoising",
        model=model.eval(),
        architecture="residual",
        model_args={},
        weights_from="nowhere",
        default_name="residual",
        evaluation=None,
        samples=CleanSamples(PICTURES, NAMES),
    )


def plan(root: Path, **changes: object) -> Plan:
    options = {"root": root, "name": "residual", "version": None, "precisions": ("fp32", "fp16"), "opset": 20}
    return Plan(**{**options, "verify": True, **changes})  # type: ignore[arg-type]


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    export_entry(DenoisingJob(origin(Residual()), None, 16, 4), plan(root))
    return root


def test_manifest_says_what_was_written(exported: Path) -> None:
    manifest = read_entry(exported, "residual").manifest
    assert manifest.task == "denoising"
    assert manifest.tiling == Tiling(tile=16, halo=4, multiple=4)
    assert manifest.preprocessing is None
    assert [(t.name, t.dtype, t.shape) for t in (*manifest.inputs, *manifest.outputs)] == [
        ("images", "uint8", ("batch", "height", "width", 3)),
        ("denoised", "uint8", ("batch", "height", "width", 3)),
        ("restored", "float32", ("batch", "height", "width", 3)),
    ]
    fp32, fp16 = manifest.parity
    assert fp32.psnr_db is not None
    assert fp16.psnr_db is not None
    assert fp32.psnr_db > 120 > fp16.psnr_db > 60
    assert fp32.max_levels is not None
    assert fp32.max_levels <= 1
    assert fp32.images_from == "8 of the checkpoint's pictures, noise of sigma 25"
    # counted by hand on 16 x 16: 4 x 4 cells, each 3*8*16 into the convolution, 8*8 through the layer, 8*3*16 out
    assert manifest.macs == 16 * (384 + 64 + 384)
    assert not (exported / "residual" / "labels.txt").exists()


def test_samples_are_the_clean_pictures(exported: Path) -> None:
    entry = read_entry(exported, "residual")
    names = entry.manifest.samples
    assert len(names) == len(set(names)) == 8
    assert set(names) <= set(entry.manifest.files)
    for name, picture in zip(names, PICTURES, strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(entry.folder / name)), picture)


def test_config_is_what_triton_reads(exported: Path) -> None:
    config = model_config_pb2.ModelConfig()
    text_format.Parse((exported / "residual" / "config.pbtxt").read_text(), config)
    assert [(i.name, list(i.dims), i.data_type) for i in config.input] == [
        ("images", [-1, -1, 3], model_config_pb2.TYPE_UINT8)
    ]
    assert [(o.name, list(o.dims), o.data_type, o.label_filename) for o in config.output] == [
        ("denoised", [-1, -1, 3], model_config_pb2.TYPE_UINT8, ""),
        ("restored", [-1, -1, 3], model_config_pb2.TYPE_FP32, ""),
    ]


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 4), rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_multiple_is_a_size(exported: Path, batch: int, rows: int, columns: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (batch, 4 * rows, 4 * columns, 3), dtype=np.uint8)
    session = session_of(exported / "residual" / "1" / "model.onnx")
    denoised, restored = session.run(["denoised", "restored"], {"images": images})
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
        expected = 255 * Residual().double()(x).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(restored, expected, atol=1e-3)
    np.testing.assert_array_equal(denoised, np.clip(np.rint(restored), 0, 255).astype(np.uint8))


def test_another_engine_gives_the_same(exported: Path) -> None:
    """onnx's own evaluator, which shares no kernel with ONNX Runtime."""
    path = exported / "residual" / "1" / "model.onnx"
    images = PICTURES[:2, :8, :12]
    denoised, restored = ReferenceEvaluator(onnx.load(path)).run(["denoised", "restored"], {"images": images})
    found_denoised, found_restored = session_of(path).run(["denoised", "restored"], {"images": images})
    np.testing.assert_allclose(found_restored, restored, atol=1e-3)
    assert np.abs(found_denoised.astype(int) - denoised.astype(int)).max() <= 1


class Half(nn.Module):
    """Half of every level."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_levels_are_rounded_half_to_even_and_clipped() -> None:
    images = torch.tensor([0, 1, 2, 3, 5, 255], dtype=torch.uint8).reshape(1, 1, 6, 1).expand(1, 1, 6, 3)
    denoised, restored = DeployDenoiser(Half())(images)
    assert restored[0, 0, :, 0].tolist() == [0, 0.5, 1, 1.5, 2.5, 127.5]
    assert denoised[0, 0, :, 0].tolist() == [0, 0, 1, 2, 2, 128]
    bright = DeployDenoiser(nn.Hardtanh(2.0, 3.0))(images)[0]
    assert set(bright.flatten().tolist()) == {255}
    dark = DeployDenoiser(nn.Hardtanh(-3.0, -2.0))(images)[0]
    assert set(dark.flatten().tolist()) == {0}


def test_a_moved_weight_does_not_pass(exported: Path, tmp_path: Path) -> None:
    path = exported / "residual" / "1" / "model.onnx"
    graph = onnx.load(path)
    weight = next(i for i in graph.graph.initializer if i.name.endswith("mix.weight") or list(i.dims) == [8, 8])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 0.2
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, tmp_path / "model.onnx")
    job = DenoisingJob(origin(Residual()), None, 16, 4)
    job.compare(path, "fp32")
    with pytest.raises(ParityError, match=r"strays from the PyTorch model: PSNR \d\d\.\d dB.*PSNR >= 80 dB"):
        job.compare(tmp_path / "model.onnx", "fp32")


def test_a_miss_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(restoration.MIN_PSNR, "fp16", 199.0)
    with pytest.raises(ParityError, match=r"model\.fp16\.onnx strays"):
        export_entry(DenoisingJob(origin(Residual()), None, 16, 4), plan(tmp_path / "models"))
    assert list((tmp_path / "models").rglob("*")) == []


def test_infinities_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [(batch, np.full(batch.shape, np.inf, np.float32)) for batch in (PICTURES[:1, :16, :16],)]
    monkeypatch.setattr(restoration, "onnx_restored", lambda _path, batches: broken * len(batches))
    with pytest.raises(ParityError, match="768 values not finite"):
        DenoisingJob(origin(Residual()), None, 16, 4).compare(Path("model.onnx"), "fp32")


@pytest.mark.parametrize(
    ("multiple", "tile", "halo", "message"),
    [
        (32, 100, None, "--tile 100 is no multiple of 32, which m needs; give 96 or 128"),
        (128, 100, None, "--tile 100 is no multiple of 128, which m needs; give 128"),
        (32, 64, 32, "--halo 32 on both sides leaves less than a step of 32 of a tile of 64; give at most 16"),
        (32, 8192, None, "--tile 8192"),
    ],
)
def test_tiles_that_cannot_be(multiple: int, tile: int, halo: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_tiling("m", multiple, tile, halo)


@pytest.mark.parametrize(("multiple", "tile", "halo"), [(32, 256, 16), (128, 256, 16), (96, 288, 16), (512, 1024, 16)])
def test_tiles_by_default(multiple: int, tile: int, halo: int) -> None:
    assert plan_tiling("m", multiple, None, None) == Tiling(tile=tile, halo=halo, multiple=multiple)
    assert len(tiling.plan(2000, 3000, tile, halo, multiple)) > 1  # the server can lay them


def test_a_tile_of_one_step_has_no_halo() -> None:
    assert plan_tiling("m", 128, 128, None).halo == 0


def test_sample_names_are_plain_and_all_different() -> None:
    assert sample_names(NAMES[:5]) == (
        "sample-cat.png",
        "sample-cat-2.png",
        "sample-a-b.png",
        "sample-flower-1.png",
        "sample-picture.png",
    )
    assert len(set(sample_names(["a-2", "a", "a", "a-2"]))) == 4


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), count=st.integers(1, 4))
def test_noisy_pictures_of_any_size(height: int, width: int, count: int) -> None:
    batch = noisy_batch(PICTURES, count, height, width, seed=0)
    assert batch.shape == (count, height, width, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, noisy_batch(PICTURES, count, height, width, seed=0))


def test_a_name_says_what_its_model_is_for() -> None:
    assert task_of("uformer_tiny") == task_of("skipat_uformer_micro") == "denoising"
    assert task_of("video_denoiser_micro") == "video-denoising"
    assert task_of("skipat_micro_patch2_8") == task_of("no_such_model") == "classification"


@pytest.mark.parametrize("option", [["--tile", "64"], ["--halo", "8"]])
def test_classifiers_have_no_tiles(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skipat_micro_patch2_8", "--out", str(tmp_path), *option]) == 1
    assert f"{option[0]} means nothing to skipat_micro_patch2_8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "100"], "--tile 100 is no multiple of 32, which skipat_uformer_micro needs; give 96 or 128"),
        (
            ["--tile", "256", "--halo", "200"],
            "--halo 200 on both sides leaves less than a step of 32 of a tile of 256; give at most 112",
        ),
        (["--labels", "labels.txt"], "--labels means nothing to skipat_uformer_micro, a model for denoising"),
        (["--pretrained"], "--pretrained means nothing to skipat_uformer_micro, a model for denoising"),
        (["--model-arg", "in_chans=4"], "pictures have 3 channels, got in_chans=4"),
        (["--model-arg", "skip=3"], "skip"),
        (["--images", "nowhere"], "nowhere"),
    ],
)
def test_what_a_denoiser_cannot_do(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["skipat_uformer_micro", "--out", str(tmp_path / "models"), *options]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "models").exists()
