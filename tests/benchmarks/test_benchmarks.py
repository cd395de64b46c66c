"""The measuring programs measure what they say; no figure is judged here."""

import csv
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks import engines, readme, rows, servers
from benchmarks.cli import main
from benchmarks.load import multipart, request_bytes, run_load


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


def test_load_sends_whole_requests_and_counts_failures() -> None:
    Handler.seen = []
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        load = run_load(http.server_port, request_bytes("/x", b"picture", "image/png"), 1, 0.3)
        http.shutdown()
    assert set(Handler.seen) == {("image/png", b"picture")}
    assert load.failures == len(Handler.seen) // 2
    assert len(load.latencies_ms) == len(Handler.seen) - load.failures
    assert load.percentile(0.5) <= load.percentile(0.99) <= max(load.latencies_ms)
    assert load.requests_per_s == pytest.approx(len(load.latencies_ms) / load.seconds)


def test_multipart_is_what_a_form_parser_reads() -> None:
    from email.parser import BytesParser

    body, content_type = multipart(b"\x00\r\nbytes", "a.jpg", "image/jpeg")
    message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    (part,) = message.get_payload()
    assert part.get_payload(decode=True) == b"\x00\r\nbytes"  # type: ignore[union-attr]
    assert part.get_filename() == "a.jpg"  # type: ignore[union-attr]


def test_the_photo_is_the_size_that_the_figures_name() -> None:
    from io import BytesIO

    from PIL import Image

    data = servers.photo()
    assert 38_000 < len(data) <= 41_000
    assert Image.open(BytesIO(data)).size == (500, 375)
    assert data == servers.photo()


def test_engine_rows_come_from_runs_that_agree(tmp_path: Path) -> None:
    found = engines.measure("tiny", 32, [1, 2], 2)
    assert {(row["model"], row["form"]) for row in found} == {
        ("vit_tiny_patch16_224", "PyTorch"),
        ("vit_tiny_patch16_224", "timm export"),
        ("vit_tiny_patch16_224", "skipvit export"),
        ("skipat_tiny_patch16_224", "PyTorch"),
        ("skipat_tiny_patch16_224", "skipvit export"),
    }
    assert {row["batch"] for row in found} == {1, 2}
    baseline = [row for row in found if row["form"] == engines.BASELINE]
    assert all(row["speedup_over_timm_export"] == 1.0 for row in baseline)
    path = rows.write_rows("engine", found, engines.PACKAGES, tmp_path)
    with path.open() as file:
        read = list(csv.DictReader(file))
    assert read == rows.read_rows("engine", tmp_path)
    assert all(row["machine"] and row["commit"] and "torch=" in row["versions"] for row in read)


def test_a_form_that_is_another_model_stops_the_run() -> None:
    import numpy as np

    same = engines.Candidate(lambda x: x.astype(np.float32), lambda x: x.reshape(len(x), -1))
    other = engines.Candidate(same.prepare, lambda x: same.run(x) + 1)
    pictures = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(RuntimeError, match=r"fast of m is 1\.0e\+00 away from PyTorch"):
        engines._drift({("m", "PyTorch"): same, ("m", "fast"): other}, pictures)


def test_both_servers_answer_all_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "server", "--seconds", "0.5", "--rounds", "1", "--clients", "2"]) == 0
    found = rows.read_rows("server", tmp_path)
    assert [row["server"] for row in found] == ["plain FastAPI, form", "skipvit, form", "skipvit, raw body"]
    assert all(row["failures"] == "0" and float(row["requests_per_s"]) > 0 for row in found)
    assert "plain FastAPI, form" in capsys.readouterr().out


def test_a_server_that_dies_is_reported_with_its_last_words() -> None:
    dying = [sys.executable, "-c", "import sys; sys.exit('no models here')"]
    with pytest.raises(RuntimeError, match="status 1 before it was ready: no models here"), servers.server(dying, 1):
        pass


def test_readme_is_made_from_the_results() -> None:
    text = readme.README.read_text()
    assert readme.fill(text) == text, "run `make readme`"
    assert "Not measured yet" not in text
    with pytest.raises(ValueError, match="exactly one <!-- engine -->"):
        readme.fill("nothing to fill")
