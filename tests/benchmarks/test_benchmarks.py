"""The measuring programs measure what they say; no figure is judged here."""

import csv
import socket
import sys
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import engines, readme, rows, servers, timing
from benchmarks.cli import main
from benchmarks.servers import form_and_body, run_load
from skipvit.models import create_model


class Handler(BaseHTTPRequestHandler):
    """Answers every second request with 500, and keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.headers["Content-Type"], body))
        self.send_response(200 if len(self.seen) % 2 else 500)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_both_requests_carry_the_picture_and_failures_are_counted() -> None:
    Handler.seen = []
    as_form, as_body = form_and_body(b"\x00\r\nbytes")
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        load = run_load(http.server_port, as_body, 1, 0.3)
        assert set(Handler.seen) == {("image/jpeg", b"\x00\r\nbytes")}
        assert load.outcomes["500"] == len(Handler.seen) // 2
        assert len(load.latencies_s) == load.outcomes["200"] == len(Handler.seen) - load.outcomes["500"]
        run_load(http.server_port, as_form, 1, 0.1)
        http.shutdown()
    content_type, body = Handler.seen[-1]
    message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    (part,) = message.get_payload()
    assert part.get_payload(decode=True) == b"\x00\r\nbytes"  # type: ignore[union-attr]
    assert part.get_filename() == "photo.jpg"  # type: ignore[union-attr]


def test_the_photo_is_the_size_that_the_figures_name() -> None:
    from io import BytesIO

    from PIL import Image

    data = servers.photo()
    assert 38_000 < len(data) <= 41_000
    assert Image.open(BytesIO(data)).size == (500, 375)
    assert data == servers.photo()


def with_a_shallow_vit(name: str, **arguments: Any) -> torch.nn.Module:
    """Ours as their presets are, and a ViT with 4 blocks, all of one kind, in place of its 12."""
    return create_model(name, **({"depth": 4} if name.startswith("vit") else {}), **arguments)


def test_engine_rows_come_from_runs_that_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "create_model", with_a_shallow_vit)  # it is exported twice, a second for each block
    found = engines.measure("tiny", 32, [1, 2], 2, ["vit", "glad"])
    assert {(row["model"], row["form"]) for row in found} == {
        ("vit_tiny_patch16_224", "PyTorch"),
        ("vit_tiny_patch16_224", "timm export"),
        ("vit_tiny_patch16_224", "skipvit export"),
        ("vit_tiny_patch16_224", "skipvit export, int8"),
        ("glad_tiny_patch16_224", "PyTorch"),
        ("glad_tiny_patch16_224", "skipvit export"),
        ("glad_tiny_patch16_224", "skipvit export, int8"),
    }
    assert {row["batch"] for row in found} == {1, 2}
    assert {row["form"] for row in found if row["precision"] == "int8"} == {"skipvit export, int8"}
    for row in found:
        if row["form"] == "timm export":
            assert row["speedup_over_timm_export"] == 1.0
        if row["model"] == "vit_tiny_patch16_224":
            assert row["speedup_over_vit_same_form"] == 1.0
    path = rows.write_rows("engine", found, engines.PACKAGES, tmp_path)
    with path.open() as file:
        read = list(csv.DictReader(file))
    assert read == rows.read_rows("engine", tmp_path)
    assert all(row["machine"] and row["commit"] and "torch=" in row["versions"] for row in read)


def test_a_short_engine_run_takes_what_it_is_told(tmp_path: Path) -> None:
    short = ["engine", "--sizes", "tiny", "--resolutions", "32", "--batches", "1", "--rounds", "1"]
    chosen = ["--families", "skipat", "dgssa", "dgssa_glad", "--forms", "pytorch", "timm"]
    assert main(["--out", str(tmp_path), *short, *chosen]) == 0
    found = rows.read_rows("engine", tmp_path)
    assert [row["model"].split("_tiny")[0] for row in found] == ["skipat", "dgssa", "dgssa_glad"]
    # no ViT was run to compare them with
    assert {(row["speedup_over_timm_export"], row["speedup_over_vit_same_form"]) for row in found} == {("", "")}
    with pytest.raises(RuntimeError, match="made of the ViT alone"):
        engines.measure("tiny", 32, [1], 1, ["glad"], ["timm export"])


def test_ratios_are_medians_of_paired_rounds() -> None:
    times = {("vit", "skipvit export"): [4.0, 8.0, 90.0], ("glad", "skipvit export"): [2.0, 5.0, 30.0]}
    figures = engines._figures(times, "glad", "skipvit export")
    assert figures["cpu_ms_per_image"] == 5.0
    assert figures["speedup_over_vit_same_form"] == 2.0  # of 2, 1.6 and 3; the medians alone would give 1.6
    assert figures["speedup_over_timm_export"] == ""


def test_a_form_that_is_another_model_stops_the_run() -> None:
    logits = np.zeros((1, 2), np.float32)
    assert timing.checked_drift(logits + 1e-4, logits, "fast of m") == pytest.approx(1e-4)
    with pytest.raises(RuntimeError, match=r"fast of m is 1\.0e\+00 away from PyTorch"):
        timing.checked_drift(logits + 1, logits, "fast of m")
    with pytest.raises(RuntimeError, match="away from PyTorch"):
        timing.checked_drift(logits * np.nan, logits, "broken")
    ones = logits + 1
    assert timing.checked_drift(ones * 1.2, ones, "int8 of m", int8=True) == pytest.approx(0.2)
    with pytest.raises(RuntimeError, match="int8 of m is"):
        timing.checked_drift(ones * 1.3, ones, "int8 of m", int8=True)


def test_every_candidate_runs_once_a_round_and_takes_turns_at_being_first() -> None:
    order: list[str] = []

    def candidate(name: str) -> timing.Candidate:
        return timing.Candidate(lambda x: x, lambda x: order.append(name) or x)  # type: ignore[func-returns-value]

    times = timing.interleave({name: candidate(name) for name in "abc"}, np.zeros((2, 1, 1, 3), np.uint8), 3, "")
    assert "".join(order) == "abc" + "bca" + "cab"
    assert {len(values) for values in times.values()} == {3}


ENGINE_ROW = {
    "machine": "M", "versions": "v", "commit": "c", "date": "2026-01-01", "rounds": "3",
    "resolution_px": "224", "batch": "8", "speedup_over_vit_same_form": "2.241",
}  # fmt: skip


def test_the_engine_table_has_a_column_a_measured_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(model: str, form: str, ms: float, **other: str) -> dict[str, str]:
        return {**ENGINE_ROW, "model": model, "form": form, "cpu_ms_per_image": str(ms), **other}

    found = [
        row("vit_small_patch16_224", "timm export", 97.4),
        row("vit_small_patch16_224", "skipvit export", 84.0),
        row("dgssa_glad_small_patch16_224", "skipvit export", 40.0),
        row("skipat_small_patch16_224", "skipvit export", 80.0, speedup_over_vit_same_form=""),
        row("skipat_base_patch16_224", "skipvit export", 300.0),
    ]
    monkeypatch.setattr(readme, "read_rows", lambda _: found)
    lines = readme.engine_table().splitlines()
    assert lines[0] == "| size | px | batch | ViT, timm export, ms | ViT, our export, ms | SkipAt | DGSSA+GLAD |"
    assert lines[2] == "| small | 224 | 8 | 97.4 | 84.0 | 1.05 | 2.24 |"
    assert lines[3] == "| base | 224 | 8 | not measured | not measured | not measured | not measured |"
    found.append(row("vit_small_patch16_224", "skipvit export, int8", 36.0))
    lines = readme.engine_table().splitlines()
    assert lines[0].startswith(
        "| size | px | batch | ViT, timm export, ms | ViT, our export, ms | ViT, our export in int8"
    )
    assert lines[2] == "| small | 224 | 8 | 97.4 | 84.0 | 36.0 | 1.05 | 2.24 |"


def test_both_servers_answer_all_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "server", "--seconds", "0.5", "--rounds", "1", "--clients", "2"]) == 0
    found = rows.read_rows("server", tmp_path)
    assert [row["server"] for row in found] == ["plain FastAPI, form", "skipvit, form", "skipvit, raw body"]
    assert all(row["failures"] == "0" and float(row["requests_per_s"]) > 0 for row in found)
    assert "plain FastAPI, form" in capsys.readouterr().out


def test_a_server_that_dies_is_reported_with_its_last_words() -> None:
    dying = [sys.executable, "-c", "import sys; sys.exit('no models here')"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens: nobody else answers there meanwhile
        port = taken.getsockname()[1]
        said = pytest.raises(RuntimeError, match="status 1 before it was ready: no models here")
        with said, servers.server(dying, port):
            pass


def test_readme_is_made_from_the_results() -> None:
    text = readme.README.read_text()
    assert readme.fill(text) == text, "run `make readme`"
    assert "Not measured yet" not in readme.engine_table() + readme.server_table()
    with pytest.raises(ValueError, match="exactly one <!-- engine -->"):
        readme.fill("nothing to fill")
