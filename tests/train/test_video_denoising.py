"""Video denoising as a task: what a batch holds, how sequences are measured, and small runs through the programs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipvit.checkpoints import load_model, read_clean_samples, save_checkpoint
from skipvit.clips import plan_windows
from skipvit.models import VideoDenoiser
from skipvit.transforms import Pixels
from train.batches import Key
from train.clip_data import open_videos
from train.clip_patches import TrainingClips
from train.distributed import Process
from train.evaluate import main as evaluate
from train.noise import Levels
from train.picture_quality import psnr, rounded
from train.recipe import PACKAGED, RecipeError, read_recipe
from train.restore_clip import restore_clip
from train.run import main as train
from train.task import Place
from train.video_denoising import VideoDenoising, centre_crops, video_denoising
from train.video_quality import Sequence, frame_qualities, mean

ALONE = Process(0, 1, torch.device("cpu"))
CPU = torch.device("cpu")
# everything that costs time is made small, everything else is the recipe's own
SMALL = [
    "data.frames=3",
    "data.patch=16",
    "data.workers=0",
    "data.held_out_frames=4",
    "data.clips_per_epoch=8",
    "model.args={dims=[4, 8, 8], depths=[1, 1, 1], num_heads=[0, 2, 2], window=2, patch=2}",
    "run.batch=2",
    "run.steps=3",
    "run.log_every=1",
    "run.threads=1",
    "run.device=cpu",
    "schedule.epochs=60",
]
VIDEO = sorted(p.stem for p in PACKAGED.glob("*.toml") if read_recipe(p).task == "video-denoising")


@dataclass(frozen=True)
class Counted:
    """Sequences of grey frames, brighter by 1 from frame to frame, in which rows and columns can be told apart."""

    lengths: tuple[int, ...] = (5, 2)
    size: int = 24

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"of {length}" for length in self.lengths)

    @property
    def weights(self) -> np.ndarray:
        return np.array(self.lengths, dtype=np.float64)

    def frames(self, index: int) -> Iterator[Pixels]:
        y, x = np.mgrid[: self.size, : self.size]
        for t in range(self.lengths[index]):
            yield np.stack([100 + t + 0 * y, 3 * y, 5 * x], axis=-1).astype(np.uint8)

    def cut(self, index: int, frames: int, size: int, rng: np.random.Generator) -> Pixels:
        return np.stack(list(self.frames(0)))[:frames, :size, :size]


def task(*overrides: str) -> VideoDenoising:
    return video_denoising(read_recipe("pans_video", [*SMALL, *overrides]), ALONE)


def settings(words: list[str]) -> list[str]:
    return [word for setting in words for word in ("--set", setting)]


def test_a_part_is_noisy_clips_with_their_noise_map() -> None:
    one, clean = task("noise.saved=0.0"), torch.full((2, 3, 3, 40, 40), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    inputs, targets = one.prepare(clean, torch.tensor([10.0, 50.0]), Place(0, 4, slice(0, 2)))
    assert inputs.shape == (2, 3, 4, 40, 40)
    torch.testing.assert_close(targets, torch.full_like(targets, 128 / 255))
    for clip, target, sigma in zip(inputs, targets, (10, 50), strict=True):
        assert torch.equal(clip[:, 3].unique(), torch.tensor([sigma / 255]))
        noise = (clip[:, :3] - target) * 255
        assert float(noise.std()) == pytest.approx(sigma, rel=0.05)
        assert float(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) == pytest.approx(0, abs=0.06)
    assert inputs.max() > 1, "not clipped"


def test_frames_may_go_alone() -> None:
    """The very same noisy frames, as clips of one."""
    clean, sigma, place = (
        torch.randint(0, 255, (2, 3, 3, 8, 8)).byte(),
        torch.tensor([10.0, 50.0]),
        Place(0, 4, slice(2)),
    )
    found = []
    for one in (task(), task("data.alone=true")):
        torch.manual_seed(0)
        found.append(one.prepare(clean, sigma, place))
    assert task("data.alone=true").model_args()["frames"] == 1
    for clips, frames in zip(*found, strict=True):
        assert torch.equal(frames, clips.flatten(0, 1)[:, None])


def test_a_share_of_clips_is_as_a_file_has_it() -> None:
    one, clean = task("noise.saved=0.5"), torch.full((60, 3, 3, 8, 8), 250, dtype=torch.uint8)
    torch.manual_seed(0)
    inputs, _ = one.prepare(clean, torch.full((60,), 50.0), Place(0, 4, slice(0, 60)))
    pixels = inputs[:, :, :3] * 255
    files = torch.isclose(pixels, pixels.round(), atol=1e-3).flatten(1).all(dim=1)
    assert 15 <= int(files.sum()) <= 45
    assert pixels[files].max() == 255
    assert (pixels[~files].flatten(1).amax(dim=1) > 300).all()


def test_clips_follow_from_their_key_and_are_varied() -> None:
    clips = TrainingClips(Counted(), 3, 8, 10, 7, Levels((5.0, 55.0), between=True), True, True, False)
    found = [clips[Key(0, position, 0)] for position in range(200)]
    for pixels, sigma in found:
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 3, 8, 8))
        assert 5 <= float(sigma) <= 55
    assert all(torch.equal(a, b) for a, b in zip(found[3], clips[Key(0, 3, 0)], strict=True))
    assert len({clip.numpy().tobytes() for clip, _ in found}) == 8 * 2, "8 ways to turn, forwards and backwards"
    assert clips.video_of.tolist() == [0] * 7 + [1] * 3, "as often as their weights say"


def test_losses_are_their_formulas() -> None:
    outputs, targets = torch.rand(2, 3, 3, 4, 4), torch.rand(2, 3, 3, 4, 4)
    square = (outputs - targets) ** 2
    for loss, expected in (("mse", square.mean()), ("charbonnier", (square + 1e-6).sqrt().mean())):
        torch.testing.assert_close(task(f"optim.loss={loss}").loss(outputs, outputs, targets), expected)


def test_the_data_decide_the_models_frames() -> None:
    assert task().model_args()["frames"] == 3
    with pytest.raises(RecipeError, match=r"model\.args has frames, which data\.frames = 3 decides"):
        task("model.args.frames=5").model_args()


class Windowed(VideoDenoiser):
    """Gives back what it was given, and writes the first pixel of each window down."""

    def __init__(self, **kwargs: int) -> None:
        super().__init__(dims=(4, 4), depths=(1, 1), num_heads=(0, 0), **kwargs)
        self.seen: list[list[int]] = []

    def forward(self, clip: Tensor, sigma: Tensor | None = None) -> Tensor:
        assert torch.equal(clip[:, :, 3].unique(), torch.tensor([30 / 255]))
        self.seen.append((clip[0, :, 0, 0, 0] * 255).round().int().tolist())
        return clip[:, :, :3]


@pytest.mark.parametrize("causal", [False, True])
def test_a_sequence_is_restored_window_by_window(causal: bool) -> None:
    model = Windowed(frames=3, causal=causal)
    frames = [frame.astype(np.float32) / 255 for frame in Counted((7,)).frames(0)]
    restored = list(restore_clip(model, iter(frames), 30.0, CPU))
    assert all(np.array_equal(a, b) for a, b in zip(restored, frames, strict=True))
    plan = plan_windows(7, 3, model.lead, model.lag)
    assert model.seen == [[100 + place for place in window.places] for window in plan]


def test_a_denoiser_of_pictures_takes_frame_by_frame() -> None:
    frames = [frame.astype(np.float32) / 255 for frame in Counted().frames(0)]
    restored = restore_clip(nn.Identity(), iter(frames), 30.0, CPU)
    assert all(np.array_equal(a, b) for a, b in zip(restored, frames, strict=True))


def test_figures_are_means_of_frames_and_noise_is_drawn_once() -> None:
    sequence = Sequence(Counted(), 0, 30.0, most=4)
    noisy, again = list(sequence.noisy()), list(sequence.noisy())
    assert len(noisy) == 4
    assert all(np.array_equal(a, b) for a, b in zip(noisy, again, strict=True))
    noise = [frame - clean.astype(np.float32) / 255 for frame, clean in zip(noisy, sequence.clean(), strict=True)]
    assert float(np.std(noise)) * 255 == pytest.approx(30, rel=0.05)
    assert float(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) == pytest.approx(0, abs=0.1)
    found = frame_qualities(sequence, iter)
    for quality, frame, clean in zip(found, noisy, sequence.clean(), strict=True):
        assert quality.psnr == psnr(np.rint(frame.clip(0, 1) * 255), clean)
    assert mean(found).psnr == pytest.approx(sum(q.psnr for q in found) / 4)


def test_samples_are_clips_of_one_size() -> None:
    clips = [np.zeros((3, 130, 200, 3), np.uint8), np.zeros((3, 150, 90, 3), np.uint8)]
    assert centre_crops(clips, 256).shape == (2, 3, 128, 64, 3)
    assert centre_crops([np.zeros((3, 40, 200, 3), np.uint8)], 256).shape == (1, 3, 32, 192, 3)


def test_the_recipes() -> None:
    assert VIDEO == ["davis_skipat", "pans_skipat", "pans_video"]


@pytest.mark.parametrize("name", VIDEO)
def test_a_recipe_trains_evaluates_and_leaves_clips(
    name: str, tmp_path: Path, davis_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"data.uri=davis:{davis_copy(40, 56, train=['a', 'b'], val=['c'])}"] if name.startswith("davis") else []
    run, single = tmp_path / "run", tmp_path / "single"
    assert train([name, "--out", str(run), *settings([*SMALL, *data])]) == 0
    model, checkpoint = load_model(run)
    assert isinstance(model, VideoDenoiser)
    assert (model.frames, model.reuse) == (3, name != "pans_video")
    assert checkpoint.task == "video-denoising"
    assert checkpoint.evaluation is not None
    assert set(checkpoint.evaluation.metrics) == {"psnr", "psnr_float", "ssim", "psnr_noisy"}
    samples = read_clean_samples(run)
    assert samples is not None
    assert samples.images.shape[1:] in ((3, 128, 192, 3), (3, 32, 32, 3))

    changed = {"architecture": "video_denoiser_micro", "model_args": {**checkpoint.model_args, "frames": 1}}
    alone = VideoDenoiser(**changed["model_args"])
    save_checkpoint(single, alone.state_dict(), checkpoint.model_copy(update=changed))
    capsys.readouterr()
    assert evaluate([str(run), "--sigma", "30,50" if data else "30", "--frames", "4", "--beside", str(single)]) == 0
    report = json.loads((run / "evaluation/evaluation.json").read_text())
    assert report["results"][0]["frames"] == 4
    assert [block["sigma"] for block in report["means"]] == ([30, 50] if data else [30])
    methods = report["means"][0]["methods"]
    assert methods["model"]["psnr"] == pytest.approx(checkpoint.evaluation.metrics["psnr"])
    assert methods["noisy"]["psnr"] == pytest.approx(checkpoint.evaluation.metrics["psnr_noisy"])
    assert methods["beside"]["psnr"] == pytest.approx(methods["noisy"]["psnr"], abs=0.01), "it starts as the identity"
    first = report["results"][0]["sequence"]
    assert (run / f"evaluation/{first}_compared30.png").is_file()
    with av.open(str(run / f"evaluation/{first}_noisy30.mkv")) as file:
        noisy = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    videos = open_videos(checkpoint.recipe["data"]["uri"]).held_out
    expected = Sequence(videos, 0, 30.0, most=4).noisy()
    assert all(np.array_equal(a, rounded(b)) for a, b in zip(noisy, expected, strict=True))
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["psnr"] == methods["model"]["psnr"]


def test_options_of_other_denoisers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["pans_video", "--out", str(tmp_path / "run"), *settings([*SMALL, "run.steps=1"])]) == 0
    assert evaluate([str(tmp_path / "run"), "--tile", "32"]) == 1
    assert "--ensemble and --tile are for denoisers of pictures" in capsys.readouterr().err
