"""The Dockerfile's own install and start commands, run in a new environment and folder.

No image is built: Python and the system's libraries are this machine's, the user is this one, and of the stage with
PyTorch the line that trains and exports is run, and the line that installs is not.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from skipvit.artifacts import read_entry
from tests.docker.dockerfile import DOCKERFILE, ROOT, Replay, command, last, read_stages
from tests.serve.servers import png, wait_until, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STAGES = read_stages(DOCKERFILE.read_text())


@dataclass(frozen=True)
class Image:
    """A folder that holds what an image would, and how a process in it is started."""

    replay: Replay
    target: str
    environment: Mapping[str, str]

    def argv(self, *keywords: str) -> list[str]:
        """The command lines of these instructions, one after the other, as programs of the folder."""
        words = [self.replay.inside(word) for key in keywords for word in command(last(STAGES, self.target, key))]
        program = shutil.which(words[0], path=self.environment["PATH"])
        assert program, f"{words[0]} is not in the image"
        return [program, *words[1:]]

    def healthcheck(self, port: int) -> int:
        environment = {**self.environment, "SKIPVIT_PORT": str(port)}
        return subprocess.run(self.argv("HEALTHCHECK"), env=environment, capture_output=True, timeout=30).returncode

    def python(self, code: str) -> str:
        argv = [self.replay.folder / "opt" / "skipvit" / "bin" / "python", "-c", code]
        workdir = self.replay.inside(last(STAGES, self.target, "WORKDIR").value)
        done = subprocess.run(argv, env=self.environment, cwd=workdir, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def files(self) -> dict[Path, tuple[int, int]]:
        """All files but those in /tmp, with sizes and times of their last change."""
        found = [path for path in self.replay.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        kept = [path for path in found if self.replay.folder / "tmp" not in path.parents]
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in kept}

    @contextmanager
    def started(self) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """ENTRYPOINT and CMD as they stand; of the environment, the address alone is this machine's own."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        process = subprocess.Popen(
            self.argv("ENTRYPOINT", "CMD"),
            env={**self.environment, "SKIPVIT_HOST": "127.0.0.1", "SKIPVIT_PORT": str(port)},
            cwd=self.replay.inside(last(STAGES, self.target, "WORKDIR").value),
        )
        try:
            yield process, port
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The `serve` image, with a tiny model in place of those of the stage with PyTorch."""
    replay = Replay.start(tmp_path_factory.mktemp("image"))
    for stage in ("wheel", "serve-packages", "serve-bare"):
        replay.build(STAGES, stage)
    write_model(replay.folder / "demo" / "models")
    replay.build(STAGES, "serve")
    for left_behind in ("src", "dist", "demo"):
        shutil.rmtree(replay.folder / left_behind)
    return Image(replay, "serve", replay.environment(STAGES, "serve"))


def test_image_starts_answers_and_stops(image: Image) -> None:
    before = image.files()
    with image.started() as (process, port):
        wait_until(lambda: process.poll() is not None or image.healthcheck(port) == 0, timeout_s=60)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert client.get("/readyz").status_code == 200
            assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["shades"]
            answer = client.post("/v1/classify", content=png(255), headers={"Content-Type": "image/png"})
            assert answer.json()["results"][0]["predictions"][0]["label"] == "9"
            assert "skipvit_requests_total" in client.get("/metrics").text
        process.send_signal(signal.Signals[last(STAGES, "serve", "STOPSIGNAL").value])
        assert process.wait(30) == 0
        assert image.healthcheck(port) == 1
    assert image.files() == before  # its file system may be read-only


def test_image_holds_no_torch_and_nothing_that_installs(image: Image) -> None:
    code = "import importlib.util as i; print([n for n in ('torch', 'timm', 'pip', 'onnx', 'av') if i.find_spec(n)])"
    assert image.python(code) == "['av']"


def test_image_imports_what_was_installed(image: Image) -> None:
    assert Path(image.python("import serve; print(serve.__file__)")).is_relative_to(image.replay.folder)


def test_image_has_what_is_compiled(image: Image) -> None:
    said = image.python("from skipvit import resampling; print(resampling.description())")
    assert said.startswith("pictures are resized by skipvit's own code")


def test_packages_leave_room_under_600_megabytes(image: Image) -> None:
    size = sum(size for size, _ in image.files().values())
    assert size < 450e6  # python:3.12-slim-bookworm takes the rest, some 130 MB


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the demo stage's last RUN has run, with this environment's programs."""
    folder = tmp_path_factory.mktemp("demo")
    programs = folder / "bin"
    programs.mkdir()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in scripts.items():
        module, _, main = target.partition(":")
        code = f"import sys; from {module} import {main}; sys.exit({main}())"
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    defaults = dict(each.value.split("=", 1) for each in STAGES["demo-models"].all("ARG"))
    script = STAGES["demo-models"].all("RUN")[-1].value
    Replay(folder, programs).run(script, folder, environment | defaults)
    return folder


def test_demo_stage_makes_the_models(demo: Path) -> None:
    entry = read_entry(demo / "models", "digits_skipat")
    assert entry.manifest.version == 1
    assert entry.manifest.evaluation is not None
    assert (demo / "models").stat().st_mode & 0o005 == 0o005  # the server is another user


def test_demo_stage_stops_at_a_model_that_cannot_be_made(tmp_path: Path) -> None:
    script = STAGES["demo-models"].all("RUN")[-1].value
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": "/bin", "DEMO_MODELS": "a b"})
    assert done.returncode != 0
