"""skipvit-analyze from end to end: its page, its numbers, its last line, and what it refuses."""

import json
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from skipvit.checkpoints import Checkpoint, save_checkpoint
from skipvit.models import Spec, create_model
from tests.serve.browser import CHROMIUM, NO_CHROMIUM, chromium
from tests.train.tiny_vits import PIXELS
from train.analysis_report import ladder, render
from train.analyze import main
from train.convert import _parse as parse_conversion

ARGS = {"embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 2}
# Pairs of labels of a figure whose boxes overlap by more than their margins.
OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const all = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
  return all.flatMap(([one, a], i) => all.slice(i + 1).filter(([, b]) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3
  ).map(([other]) => one + ' / ' + other))
})"""
VOID = {"meta", "rect", "line", "circle", "polyline"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny <vit>"
    torch.manual_seed(0)
    model = create_model("vit_micro_patch2_8", **ARGS)
    weights = {name: torch.randn_like(w) * 0.3 if w.ndim > 1 else w for name, w in model.state_dict().items()}
    described = Checkpoint(
        architecture="vit_micro_patch2_8", model_args=ARGS, labels=("ant", "bee"), preprocessing=PIXELS, recipe={},
        epochs=1, versions={}, commit="none",
    )  # fmt: skip
    save_checkpoint(folder, weights, described)
    return folder


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    for i in range(20):
        picture(tmp_path / "photos" / ("ant", "bee")[i % 2] / f"{i}.png", seed=i)
    return tmp_path / "photos"


class Page(HTMLParser):
    """Checks that tags nest, and gathers text and what is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.words: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_report_and_numbers_are_written(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "analysis"
    assert main([str(checkpoint), str(photos), "--out", str(out), "--target", "1.2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["analysis.json", "report.html"]
    found = json.loads((out / "analysis.json").read_text())
    assert found["pictures"]["images"] == 20
    assert found["pictures"]["accuracy"] is not None
    assert [len(costs) for costs in found["probes"]["costs"].values()] == [4] * 5
    assert found["probes"]["images"] == 10
    assert len(found["statistics"]["cka"]) == 4
    assert "mean_map" not in found["statistics"]
    assert found["run"]["versions"]["torch"] == torch.__version__
    best = found["search"]["proposal"]
    Spec.parse(best["spec"]).check(4, "token")
    assert best["other_images"] == 10
    assert best["measured_speed"] == pytest.approx(best["seconds"]["original"] / best["seconds"]["proposal"])
    printed = capsys.readouterr().out.splitlines()
    last = json.loads(printed[-1])
    assert last["spec"] == best["spec"]
    assert last["kl"] == best["cost"]["kl"]
    assert last["report"] == str(out / "report.html")
    assert re.search(r"^ +3 +[\d.e-]+ +[\d.e-]+ +[\d.e-]+ +[\d.e-]+ +[\d.e-]+$", "\n".join(printed), re.MULTILINE)


def test_the_page_is_whole_and_names_every_block(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), str(photos), "--out", str(tmp_path / "a"), "--target", "1.2"]) == 0
    text = (tmp_path / "a" / "report.html").read_text()
    page = Page(text)
    assert page.stack == []
    assert page.loaded == []
    assert "url(" not in text
    assert "@import" not in text
    for block in range(4):
        assert page.words.count(f"block {block}") == 2, "one row of probes and one of statistics"
    assert "tiny <vit>" in "".join(page.words), "a name is text, never markup"
    assert "skipvit-convert" in "".join(page.words)
    assert text.count("<svg") == 6


def test_pictures_without_classes_do(
    checkpoint: Path, tmp_path: Path, picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        picture(tmp_path / "flat" / f"{i}.png", seed=i)
    assert main([str(checkpoint), str(tmp_path / "flat"), "--out", str(tmp_path / "a"), "--limit", "2"]) == 0
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert found["pictures"] == {"source": "2 pictures of flat", "images": 2, "accuracy": None}
    assert found["statistics"]["cka"] is None, "four pictures are the least"
    assert "note: Accuracy is not shown: the pictures lie in no class folders." in capsys.readouterr().out


def test_one_picture_is_enough(checkpoint: Path, tmp_path: Path, picture: Callable[..., Path]) -> None:
    picture(tmp_path / "one" / "a.png")
    assert main([str(checkpoint), str(tmp_path / "one"), "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert found["search"]["proposal"]["cost_on_other_images"] is None
    assert found["statistics"]["similarity"] is None


def test_a_name_and_weights_from_a_file(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(load_file(checkpoint / "model.safetensors"), weights)
    args = [word for key, value in ARGS.items() for word in ("--model-arg", f"{key}={value}")]
    command = ["vit_micro_patch2_8", str(photos), "--weights", str(weights), *args, "--out", str(tmp_path / "a")]
    assert main(command) == 0
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    program, *options = shlex.split(found["command"])
    understood = parse_conversion(options)
    assert (program, understood.model, understood.images) == ("skipvit-convert", "vit_micro_patch2_8", str(photos))
    assert understood.spec == found["search"]["proposal"]["spec"]
    assert understood.weights == weights
    assert dict(understood.model_arg) == ARGS


def test_a_vit_that_the_family_cannot_take_over_gets_no_proposal(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["depth=3", "embed_dim=16", "num_heads=2", "img_size=16", "patch_size=4", "num_classes=3"]
    options = [word for arg in args for word in ("--model-arg", arg)]
    command = ["deit_tiny_distilled_patch16_224", str(photos), *options, "--out", str(tmp_path / "a")]
    assert main(command) == 0
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert found["search"] is None
    assert found["command"] is None
    printed = capsys.readouterr().out
    assert "note: No spec is proposed" in printed
    assert "note: The weights are random" in printed
    assert json.loads(printed.splitlines()[-1])["spec"] is None
    assert Page((tmp_path / "a" / "report.html").read_text()).stack == []


def test_a_vit_that_pools_by_attention_is_analysed(photos: Path, tmp_path: Path) -> None:
    args = ["depth=3", "embed_dim=16", "num_heads=2", "img_size=16", "patch_size=4", "num_classes=3"]
    options = [word for arg in args for word in ("--model-arg", arg)]
    command = ["vit_base_patch16_siglip_224", str(photos), *options, "--probe-images", "4"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert found["model"]["global_pool"] == "map"
    assert found["model"]["macs"] > 0


def refused(capsys: pytest.CaptureFixture[str], out: Path, *args: str) -> str:
    assert main([*args, "--out", str(out)]) == 1
    assert not out.exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipvit-analyze: ")]
    assert len(lines) == 1
    return lines[0]


def test_unusable_pictures_are_named(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    assert "holds no picture" in refused(capsys, out, str(checkpoint), str(empty))
    assert "there is no folder" in refused(capsys, out, str(checkpoint), str(tmp_path / "nowhere"))
    assert "names no data set" in refused(capsys, out, str(checkpoint), "builtin:cats")
    (photos / "bee" / "broken.png").write_bytes(b"nothing")
    assert "broken.png cannot be read as a picture" in refused(capsys, out, str(checkpoint), str(photos))


def test_unusable_models_are_named(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "no model is named" in refused(capsys, out, "vit_tinny", str(photos))
    assert "is not a plain ViT" in refused(capsys, out, "test_resnet", str(photos))
    assert "has no blocks" in refused(capsys, out, "vit_micro_patch2_8", str(photos), "--model-arg", "depth=0")
    assert "has a spec already" in refused(capsys, out, "skipat_micro_patch2_8", str(photos))
    weights = load_file(checkpoint / "model.safetensors")
    weights["blocks.1.mlp.fc1.weight"].fill_(1e38)  # a NaN in the file itself is refused when it is read
    save_file(weights, tmp_path / "huge.safetensors")
    args = [word for key, value in ARGS.items() for word in ("--model-arg", f"{key}={value}")]
    command = ["vit_micro_patch2_8", str(photos), "--weights", str(tmp_path / "huge.safetensors"), *args]
    assert "not finite" in refused(capsys, out, *command)


def test_an_out_that_cannot_be_written_is_refused_before_the_work(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(checkpoint), str(photos), "--out", str(tmp_path / "file" / "a")]) == 1
    assert "is a file; give a folder" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert main([str(checkpoint), str(photos), "--out", str(tmp_path / "link")]) == 1
    assert "is a link to nowhere" in capsys.readouterr().err
    assert main([str(checkpoint), str(photos), "--out", str(tmp_path / ("x" * 300))]) == 1
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--target", "1"], ["--target", "fast"], ["--limit", "0"], ["--model-arg", "x"]])
def test_bad_options_are_explained(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["vit", "photos", *option])
    assert "needs" in capsys.readouterr().err


def test_an_interrupt_leaves_nothing(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.analysis_stages.probe_layers", interrupted)
    assert main([str(checkpoint), str(photos), "--out", str(tmp_path / "out")]) == 130
    assert not (tmp_path / "out").exists()
    assert "nothing was written" in capsys.readouterr().err


def test_ladder_takes_the_cheapest_point_of_each_speed() -> None:
    points = [{"predicted_speed": s} for s in (1.0, 1.05, 1.12, 1.14, 1.3, 1.31)]
    assert [p["predicted_speed"] for p in ladder(points)] == [1.0, 1.12, 1.3]


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_the_page_fits_a_phone_and_no_labels_overlap(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), str(photos), "--out", str(tmp_path / "a"), "--target", "1.2"]) == 0
    with chromium() as browser:
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.goto(f"file://{tmp_path / 'a' / 'report.html'}")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(OVERLAPS) == []
            assert (
                page.evaluate("[...document.querySelectorAll('.bars th')].filter(e => e.scrollWidth > e.clientWidth)")
                == []
            )


def test_a_page_of_many_layers_leaves_numbers_out_of_the_heat_maps() -> None:
    cost = {"kl": 0.1, "agreement": 0.9, "cosine": 0.9, "accuracy": None, "accuracy_change": None}
    square, heads = [[0.5] * 24] * 24, [[0.5, 0.6]] * 24
    found = {
        "notes": [],
        "model": {"architecture": "m", "weights_from": "w", "depth": 24, "heads": 2, "grid": [4, 4]},
        "pictures": {"source": "s", "accuracy": None},
        "statistics": dict.fromkeys(("cka", "output_cosine", "map_cosine", "class_cosine"), square)
        | dict.fromkeys(("similarity", "centred_similarity", "deviation", "entropy_rank", "stable_rank"), heads),
        "probes": {"costs": {"static": [cost] * 24}},
        "block_times": None,
        "search": None,
        "run": {"versions": {}, "machine": "m", "device": "cpu", "threads": 1, "seconds": 1.0, "cpu_seconds": 1.0,
                "peak_rss_mib": 1, "commit": "c"},
    }  # fmt: skip
    page = Page(render(found))
    assert page.stack == []
    assert ".50" not in page.words
    assert "block 23" in page.words
