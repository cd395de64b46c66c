"""The pareto benchmark: what is trained, how a run is taken up again, its table and its picture."""

import random
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks import pareto, pareto_chart, readme, trainings
from benchmarks.trainings import Training, carry_out, folder_of
from skipvit.models.spec import Spec
from train.recipe import PACKAGED

CIRCUMSTANCES = {"machine": "M", "versions": "v", "commit": "c", "date": "2026-01-01", "rounds": "99"}


def row(name: str, speed: float, top1: float, seed: int = 0) -> dict[str, str]:
    return {
        "candidate": name, "start": "the ViT" if "converted" in name else "random", "spec": "", "seed": str(seed),
        "held_out_images": "360", "top1_percent": str(top1), "images_per_s_per_core": str(speed),
        "speedup_over_vit": str(round(speed / 5000, 3)), "params": "402634", "mmacs": "6.9", "train_cpu_s": "100",
        **CIRCUMSTANCES,
    }  # fmt: skip


# Crowded as the real ones are: what was trained and what was converted under one spec are equally fast.
ROWS = [
    row(name, speed, top1 + shift, seed)
    for name, speed, top1 in [
        ("ViT", 5000, 97.4), ("identity reuse", 6900, 96.0), ("depthwise reuse", 6500, 97.0), ("SkipAt", 5210, 98.2),
        ("DGSSA", 5400, 97.3), ("GLAD", 8300, 97.0), ("DGSSA+GLAD", 9000, 96.7), ("SkipAt, converted", 5200, 97.9),
        ("DGSSA, converted", 5410, 97.5), ("GLAD, converted", 8310, 97.1), ("all three, converted", 9100, 96.1),
    ]
    for seed, shift in enumerate((-0.5, 0.1, 0.4))
]  # fmt: skip


# --- what is run ---


def test_all_three_together_is_one_spec_that_can_work() -> None:
    spec = pareto.joint_spec(("skipat", "dgssa", "glad"))
    assert spec == Spec.parse("static:0-1 skip:2-5 tokens:1/2@2,1/4@4")
    spec.check(8, "token")


def test_a_shorter_training_keeps_its_proportions() -> None:
    training = pareto._training(pareto.ENTRIES[1], 3, epochs=12)
    assert training.name == "identity_reuse_3"
    settings = training.arguments[2::2]
    assert settings[:3] == ("model.args.phi=identity", "run.seed=3", "schedule.epochs=12")
    assert settings[3:] == ("schedule.warmup_epochs=1.000000", "augment.ramp_epochs=5.000000")


@pytest.mark.parametrize("entry", pareto.ENTRIES, ids=lambda e: e.name)
def test_every_candidate_can_be_started(entry: pareto.Entry, tmp_path: Path) -> None:
    if entry.recipe and (PACKAGED / f"{entry.recipe}.toml").exists():
        assert pareto._training(entry, 0, None).arguments[0] == entry.recipe
    elif entry.converted:
        arguments = pareto._conversion(entry, 2, tmp_path, 7).arguments
        assert arguments[0] == str(folder_of(tmp_path, "vit_2"))
        assert "--steps" in arguments


# --- how it is run ---

PROGRAM = """
import json, os, sys
out = sys.argv[sys.argv.index("--out") + 1]
assert os.environ["OMP_NUM_THREADS"] == "1" and not os.path.exists(out)
os.makedirs(out)
open(os.environ["COUNT"], "a").write(sys.argv[1] + "\\n")
if sys.argv[1] == "bad":
    sys.exit("no such recipe")
print(json.dumps({"cpu_seconds": 1.5}))
"""


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for every run of the module ``stub``."""
    (tmp_path / "stub.py").write_text(PROGRAM)
    monkeypatch.setattr(trainings, "_ROOT", tmp_path)
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    return tmp_path / "count"


def test_what_is_finished_is_not_run_again(tmp_path: Path, count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [Training(name, "stub", (name,)) for name in ("a", "b", "c")]
    with pytest.raises(RuntimeError, match="bad ended with status 1: no such recipe"):
        carry_out([good[0], Training("bad", "stub", ("bad",)), *good[1:]], tmp_path, 1, "")
    assert carry_out(good, tmp_path, 2, "") == {"a": 1.5, "b": 1.5, "c": 1.5}
    assert sorted(count.read_text().split()) == ["a", "b", "bad", "c"]
    carry_out([Training("a", "stub", ("a", "--other")), *good[1:]], tmp_path, 2, "")
    assert count.read_text().split()[4:] == ["a"], "settings that changed need another run"
    monkeypatch.setattr(trainings.provenance, "commit", lambda: "another")
    carry_out(good[1:2], tmp_path, 1, "", any_commit=True)
    assert count.read_text().split()[5:] == [], "other code's were asked for"
    carry_out(good[1:2], tmp_path, 1, "")
    assert count.read_text().split()[5:] == ["b"], "code that changed needs another run"


def test_a_run_without_figures_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    silent = Training("quiet", "this", ())
    with pytest.raises(RuntimeError, match="did not end with its figures"):
        carry_out([silent], tmp_path, 1, "")
    assert not list((tmp_path / "finished").glob("*"))


def test_a_training_becomes_a_row(tmp_path: Path) -> None:
    (found,) = pareto.measure([1], tmp_path, rounds=3, epochs=1, entries=pareto.ENTRIES[:1])
    assert (found["candidate"], found["seed"], found["epochs"], found["params"]) == ("ViT", 1, 1, 402_634)
    assert found["speedup_over_vit"] == 1.0
    assert float(str(found["images_per_s_per_core"])) > 0
    assert 5 < float(str(found["top1_percent"])) <= 100
    assert set(ROWS[0]) - set(CIRCUMSTANCES) <= set(found), "the rows that the table is tested with have its columns"


# --- its picture and its table ---


def test_the_frontier_is_all_that_nothing_beats() -> None:
    shown = pareto_chart.points(ROWS)
    kept = pareto_chart.frontier(shown)
    beaten = [
        p for p in shown
        if any(q.speed >= p.speed and q.top1 >= p.top1 and (q.speed, q.top1) != (p.speed, p.top1) for q in shown)
    ]  # fmt: skip
    assert {p.name for p in kept} == {p.name for p in shown} - {p.name for p in beaten}
    assert [p.speed for p in kept] == sorted(p.speed for p in kept)


def labels_of(rows: list[dict[str, str]]) -> list[object]:
    picture = pareto_chart.figure(rows)
    picture.draw_without_rendering()
    return [text.get_window_extent() for text in picture.axes[0].texts if text.get_text()]


@pytest.mark.parametrize("seed", range(4))
def test_labels_do_not_overlap(seed: int) -> None:
    rng = random.Random(seed)
    speeds = [rng.choice([5000, 5010, 5200, 8300, 8310, 9000]) for _ in range(11)]
    drawn = [row(f"a long candidate {i}", s, 97 + rng.random()) for i, s in enumerate(speeds)]
    for rows in (drawn, ROWS):
        boxes = labels_of(rows)
        assert len(boxes) == 11
        assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]  # type: ignore[attr-defined]


def test_the_picture_is_the_same_bytes_for_the_same_rows(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in pareto_chart.draw(ROWS, tmp_path / "a.csv")]
    second = [file.read_bytes() for file in pareto_chart.draw(ROWS, tmp_path / "b.csv")]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.png", "a.svg", "b.png", "b.svg"]
    assert first == second


def test_the_table_has_means_over_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readme, "read_rows", lambda _: [])
    monkeypatch.setattr(readme, "newest", lambda _: None)
    assert readme.pareto_table() == "Not measured yet."
    monkeypatch.setattr(readme, "read_rows", lambda _: ROWS)
    monkeypatch.setattr(readme, "newest", lambda _: readme.README.parent / "benchmarks/results/pareto_m_202601.csv")
    text = readme.pareto_table()
    assert "| ViT | 97.4 | 96.9 to 97.8 | 5000 | 1.00 | 402,634 | 6.90 | 100 |" in text
    assert "| GLAD, converted | 97.1 | 96.6 to 97.5 | 8310 | 1.66 | 402,634 | 6.90 | 100 |" in text
    assert "(benchmarks/results/pareto_m_202601.svg)" in text
