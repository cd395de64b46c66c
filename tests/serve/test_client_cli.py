"""skipvit-client as its users run it, against a real server."""

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipvit.client import cli
from skipvit.client.bench import made_up_picture
from tests.no_room import no_room
from tests.serve.clips import clip, decoded, noise_frames
from tests.serve.servers import png, wait_until
from tests.skipvit.scripted_server import scripted

ROOT = Path(__file__).resolve().parents[2]


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's URL, which the command finds in its environment."""
    monkeypatch.setenv("SKIPVIT_URL", url)
    return url


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    (folder / "black.png").write_bytes(png(0))
    (folder / "white.png").write_bytes(png(255))
    (folder / "deeper" / "grey.png").write_bytes(png(113))
    return folder


def test_classify_prints_a_line_a_picture(client: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["classify", str(pictures), str(pictures / "white.png"), "--top-k", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = [line.split()[0:2] for line in out]
    names = ["black.png", "deeper/grey.png", "white.png", "white.png"]
    assert found == [[str(pictures / name), label] for name, label in zip(names, "0499", strict=True)]
    assert all(line.count("%") == 2 for line in out)


def test_classify_tells_machines_of_errors_too(client: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "none.png").write_bytes(b"no picture")
    missing = pictures / "missing.png"
    assert cli.main(["classify", "--json", str(pictures), str(missing)]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        None,
        None,
        "not_an_image",
        None,
        "bad_input",
    ]
    assert answers[0]["predictions"][0]["label"] == "0"
    assert answers[0]["file"] == str(pictures / "black.png")
    assert cli.main(["classify", str(pictures), str(missing)]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert "none.png: " in said.err
    assert "missing.png does not exist" in said.err


def test_denoise_a_file(client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "noisy.png", tmp_path / "clean.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    Image.fromarray(pixels).save(source)
    assert cli.main(["denoise", str(source), "-o", str(out), "--model", "clean"]) == 0
    assert "clean/1; 4 tiles" in capsys.readouterr().out
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(out.read_bytes()))), pixels)
    before = out.stat().st_mtime_ns
    assert cli.main(["denoise", str(source), "-o", str(out)]) == 1
    assert "exists; give another path, or --force" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
    assert cli.main(["denoise", str(source), "-o", str(out), "--force", "--format", "webp"]) == 0
    assert Image.open(io.BytesIO(out.read_bytes())).format == "WEBP"
    assert cli.main(["denoise", str(source), "-o", str(tmp_path / "clean.bmp")]) == 1
    assert "--format" in capsys.readouterr().err


def test_denoise_a_folder(client: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clean"
    (pictures / "none.png").write_bytes(b"no picture")
    assert cli.main(["denoise", str(pictures), "-o", str(out), "--format", "jpeg", "--quality", "90"]) == 1
    assert "none.png: " in capsys.readouterr().err
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "black.jpeg", "deeper/grey.jpeg", "white.jpeg"
    ]  # fmt: skip
    assert cli.main(["denoise", str(pictures), "-o", str(out), "--format", "jpeg"]) == 1
    assert "black.jpeg exists" in capsys.readouterr().err
    (pictures / "black.gif").write_bytes(b"")
    assert cli.main(["denoise", str(pictures), "-o", str(tmp_path / "other")]) == 1
    assert "endings" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_full_disk_leaves_no_half_picture(client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "noisy.png", tmp_path / "clean.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)).save(source)
    with no_room(1 << 12):
        assert cli.main(["denoise", str(source), "-o", str(out), "--model", "clean"]) == 1
    assert "clean.png cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["noisy.png"]


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "noisy.png", tmp_path / "clean.png"
    source.write_bytes(png())
    with scripted(60.0) as server:
        command = [sys.executable, "-m", "skipvit.client.cli", "denoise", str(source), "-o", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SKIPVIT_URL": server.url}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until(lambda: bool(server.seen), 30)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == 130
    assert err.endswith("skipvit-client: ended by Ctrl-C\n")
    assert [path.name for path in tmp_path.iterdir()] == ["noisy.png"]


def test_video(video_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = noise_frames(3)
    source, out = tmp_path / "noisy.mkv", tmp_path / "clean.mkv"
    source.write_bytes(clip(frames))
    arguments = ["video", str(source), "-o", str(out), "--url", video_url, "--model", "steady", "--sigma", "20"]
    assert cli.main(arguments) == 0
    np.testing.assert_array_equal(decoded(out.read_bytes())[0], frames)
    assert cli.main(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert cli.main([*arguments[:3], str(tmp_path / "clean.avi"), *arguments[4:]]) == 1
    assert ".mp4 or .mkv" in capsys.readouterr().err


def test_models(client: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:3] == ["model", "version", "task"]
    assert ["shades", "1", "classification", "brightness", "10", "0", "192"] in rows
    assert cli.main(["models", "--json"]) == 0
    assert {json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()} == {"shades", "clean"}


@pytest.mark.parametrize("load", [["--clients", "2"], ["--rate", "50"]])
def test_bench(
    client: str, pictures: Path, tmp_path: Path, load: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "runs.csv"
    arguments = ["bench", *load, "--seconds", "1", "--warmup", "0", "--csv", str(table)]
    assert cli.main([*arguments, "--json", "--model", "shades"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["requests"] == row["outcomes"]["200"] > 0
    assert row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert cli.main([*arguments, str(pictures), "--task", "denoise"]) == 0
    assert "latency ms  p50" in capsys.readouterr().out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [found["task"] for found in rows] == ["classify", "denoise"]
    assert float(rows[0]["p99_ms"]) == row["p99_ms"]


def test_bench_of_a_server_that_refuses_fails(client: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--seconds", "0.5", "--warmup", "0", "--model", "shadow"]) == 1
    said = capsys.readouterr().out
    assert "404: " in said
    assert "latency" not in said


def test_bench_keeps_a_file_of_other_columns(client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("a,b\n1,2\n")
    assert cli.main(["bench", "--seconds", "0.1", "--warmup", "0", "--csv", str(table)]) == 1
    assert "other columns" in capsys.readouterr().err
    assert table.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    "arguments", [["classify", "a.png"], ["denoise", "a.png", "-o", "b.png"], ["models"], ["bench"]]
)
def test_nobody_there_is_said_once(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png())
    retries = [] if arguments == ["bench"] else ["--retries", "1"]
    assert cli.main([*arguments, "--url", free_url(), *retries]) == 1
    said = capsys.readouterr().err
    assert said.count("is skipvit-serve running there?") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify"],
        ["classify", "x", "--top-k", "0"],
        ["bench", "--rate", "0"],
        ["bench", "--rate", "nan"],
        ["bench", "--rate", "5", "--clients", "2"],
        ["bench", "--size", "5"],
        ["bench", "--seconds", "-1"],
        ["video", "a.mp4", "-o", "b.mp4", "--sigma", "300"],
        ["models", "--api-key", "secret"],
        [],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: skipvit-client" in capsys.readouterr().err


def test_ctrl_c_gives_the_figures_until_then(client: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = (
        "import sys, pathlib\nfrom skipvit.client import cli, load\ncount = load._Run.count\n"
        "def noted(run, *rest):\n    count(run, *rest)\n"
        f"    pathlib.Path({str(seen)!r}).touch()\n"
        "load._Run.count = noted\n"
        "sys.exit(cli.main(['bench', '--seconds', '60', '--warmup', '0', '--json']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(seen.exists, 30)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    row = json.loads(out)
    assert row["interrupted"]
    assert row["outcomes"]["200"] >= 1
    assert "ended by Ctrl-C" in err


@pytest.mark.parametrize("side", [(500, 375), (1, 1)])
def test_the_made_up_picture_is_the_same_every_time(side: tuple[int, int]) -> None:
    data = made_up_picture(*side)
    assert data == made_up_picture(*side)
    assert Image.open(io.BytesIO(data)).size == side
