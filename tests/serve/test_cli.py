"""The program: start, serve, drain, and refuse with one plain line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from serve.cli import main
from serve.settings import Settings, available_cpus
from serve.web.api_keys import ApiKeys
from tests.serve.servers import encoded, png, wait_until, write_model

ROOT = Path(__file__).resolve().parents[2]
PNG = {"Content-Type": "image/png"}


@contextmanager
def program(models: Path, *flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server as a user starts it, and the URL it printed; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", str(models), "--port", "0", *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"skipvit-serve: ready, open (https?://127\.0\.0\.1:\d+)/\n", line)
        assert found, f"printed {line!r}, {process.stderr.read() if process.stderr else ''}"
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_serves_drains_and_exits_with_zero(models_dir: Path) -> None:
    """SIGTERM with requests in flight: they are finished, the exit code is 0, and the log has them all."""
    big = encoded_noise()
    headers = {**PNG, "Content-Length": str(len(big))}
    with program(models_dir, "--log-format", "json", "--threads", "1") as (process, url), httpx.Client() as http:
        rss = psutil.Process(process.pid).memory_info().rss
        assert rss < 250 << 20
        statuses: list[int] = []
        told_to_end = threading.Event()

        def all_but_its_end() -> Iterator[bytes]:
            """None is answered before the signal, however fast the server is."""
            yield big[:-1]
            assert told_to_end.wait(120)
            yield big[-1:]

        def post() -> None:
            response = http.post(f"{url}/v1/classify", content=all_but_its_end(), headers=headers, timeout=120)
            statuses.append(response.status_code)

        clients = [threading.Thread(target=post) for _ in range(8)]
        for client in clients:
            client.start()
        wait_until(lambda: "skipvit_inflight_requests 9.0" in http.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        told_to_end.set()
        for client in clients:
            client.join()
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
    assert statuses == [200] * 8
    lines = [json.loads(line) for line in log.splitlines()]
    assert not [line for line in lines if line["level"] == "error"]
    answered = [line for line in lines if line.get("path") == "/v1/classify"]
    assert len(answered) == 8
    assert all(line["status"] == 200 and line["model"] == "shades" and line["request_id"] for line in answered)


def encoded_noise() -> bytes:
    """A picture that takes a fifth of a second or so to decode."""
    import numpy as np
    from PIL import Image

    return encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)))


def test_a_lame_duck_ends_when_its_time_is_over(models_dir: Path) -> None:
    with program(models_dir, SKIPVIT_LAME_DUCK_S="1") as (process, _):
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert process.returncode == 0
        assert time.monotonic() - told >= 1


def test_a_lame_duck_answers_but_is_not_ready_and_a_second_signal_ends_it_at_once(models_dir: Path) -> None:
    with program(models_dir, SKIPVIT_LAME_DUCK_S="600") as (process, url):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        assert httpx.post(f"{url}/v1/classify", content=png(), headers=PNG).status_code == 200
        # Who keeps a connection is told before it is closed: what was sent on it at that moment would be lost.
        wait_until(lambda: httpx.get(f"{url}/livez").headers.get("connection") == "close")
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)  # a fifth of what the lame duck would take


def test_a_second_signal_ends_it_although_a_thread_hangs(models_dir: Path) -> None:
    hang = """
import os, signal, sys, time
from serve.cli import main
from serve.models.served_model import ServedModel

def warm_up(self):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)

ServedModel.warm_up = warm_up
main([sys.argv[1], "--port", "0"])
"""
    done = subprocess.run([sys.executable, "-c", hang, str(models_dir)], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0


HANGS = """
import os, signal, sys, threading, time
import httpx
from serve import cli
from serve.models.served_model import ServedModel

warm_up, announce, number, runs = ServedModel.warm_up, cli._announce, int(sys.argv[2]), 0

def hang(self):
    global runs
    runs += 1
    if runs < number:
        return warm_up(self)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)

def load(settings, listener):
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/repository/models/shades/load"
    threading.Thread(target=httpx.post, args=(url,), kwargs={"timeout": 60}, daemon=True).start()

ServedModel.warm_up, cli._announce = hang, load
code = cli.main([sys.argv[1], "--port", "0", "--model-control", "explicit", "--drain-s", "1", "--lame-duck-s", "2"])
sys.exit(code)
"""


@pytest.mark.parametrize("number", [1, 3], ids=["at the start", "of a reload"])
def test_one_signal_ends_it_although_a_warm_up_hangs(models_dir: Path, number: int) -> None:
    command = [sys.executable, "-c", HANGS, str(models_dir), str(number)]
    done = subprocess.run(command, cwd=ROOT, timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "threads hang and are left behind" in done.stderr


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(argv: Sequence[str]) -> str:
        assert main(argv) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        last = captured.err.rstrip("\n").split("\n")[-1]
        assert last.startswith("skipvit-serve: ")
        assert "Traceback" not in captured.err
        return last

    return run


def test_a_changed_model_is_refused(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = write_model(tmp_path)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert re.search(r"shades/1/model\.onnx has sha256 .* the manifest says", refused([str(tmp_path)]))


def test_no_models(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "holds no model" in refused([str(tmp_path)])
    assert "is not a folder" in refused([str(tmp_path / "nowhere")])


def test_a_taken_port(refused, models_dir: Path) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused([str(models_dir), "--port", port])
    assert f"cannot listen on 127.0.0.1:{port}" in message
    assert "another --port" in message


def test_settings_that_make_no_sense(refused, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    message = refused([str(models_dir), "--port", "70000"])
    assert "--port or SKIPVIT_PORT is '70000': Input should be less than or equal to 65535" in message
    assert "--log-format or SKIPVIT_LOG_FORMAT is 'xml'" in refused([str(models_dir), "--log-format", "xml"])
    monkeypatch.setenv("SKIPVIT_MAX_PIXELS", "many")
    assert "--max-pixels or SKIPVIT_MAX_PIXELS is 'many': Input should be a valid integer" in refused([str(models_dir)])


def test_a_kubernetes_service_of_our_name_does_not_set_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPVIT_PORT", "tcp://10.96.0.12:8000")
    assert Settings().port == 8000


def test_a_host_that_is_not_here(refused, models_dir: Path) -> None:  # type: ignore[no-untyped-def]
    message = refused([str(models_dir), "--host", "203.0.113.7", "--port", "0"])
    assert "cannot listen on 203.0.113.7:0" in message
    assert "give another --host or --port" in message


def test_a_model_that_fails_to_warm_up_ends_the_server(tmp_path: Path) -> None:
    """The graph loads, matches its manifest, and fails on the first picture."""
    import onnx
    from onnx import helper, numpy_helper

    from tests.serve.servers import brightness_model

    model = brightness_model()
    model.graph.node[1].input[1] = "bad_axes"
    import numpy as np

    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.int64), "good_axes"))
    model.graph.node.insert(1, helper.make_node("Shape", ["float"], ["bad_axes"]))  # axes of 8 and more
    assert isinstance(model, onnx.ModelProto)
    write_model(tmp_path, graph=model)
    done = subprocess.run(
        [sys.executable, "-m", "serve", str(tmp_path), "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "skipvit-serve: a model failed to warm up" in done.stderr
    assert done.stdout == ""


def test_help_holds_two_commands_and_every_default() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "skipvit-serve models" in done.stdout
    assert "curl -T digit.png" in done.stdout
    assert "Default: 8000" in done.stdout
    for name in Settings.model_fields.keys() - {"models", "groups"}:
        assert f"--{name.replace('_', '-')}" in done.stdout


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPVIT_MAX_BATCH", "3")
    assert Settings().max_batch == 3
    assert Settings(max_batch=4).max_batch == 4
    assert Settings().decoders == available_cpus() >= 1
    with pytest.raises(ValueError, match="max_files 20 is over max_in_flight 10"):
        Settings(max_files=20, max_in_flight=10)


def test_every_setting_says_what_it_is() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_importing_the_server_loads_neither_torch_nor_timm() -> None:
    code = "import sys, serve.cli; sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_missing_packages_are_named() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from serve.__main__ import main; sys.exit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "skipvit-serve: uvicorn is not installed; run: pip install 'skipvit[serve]'\n"


def test_new_key_prints_a_line_for_the_file_and_the_key_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--new-key", "web:infer,metrics"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    (tmp_path / "keys").write_text(printed.out)
    key = printed.err.split()[-1]
    found = ApiKeys(tmp_path / "keys").find(key)
    assert found is not None
    assert (found.name, found.rights) == ("web", {"infer", "metrics"})
    with pytest.raises(SystemExit) as ended:
        main(["--new-key", "web:root"])
    assert ended.value.code == 2
    assert "none of infer, metrics, admin" in capsys.readouterr().err


def test_a_file_of_keys_that_cannot_be_used(refused, models_dir: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    keys = tmp_path / "keys"
    assert f"{keys} cannot be read" in refused([str(models_dir), "--api-keys", str(keys)])
    keys.write_text("web:s3cret")
    message = refused([str(models_dir), "--api-keys", str(keys)])
    assert f"{keys}, line 1 is not NAME:SHA256" in message
    assert "s3cret" not in message
