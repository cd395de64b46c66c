"""README's commands, run as they stand in a folder of their own, the server that they end in left running."""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.servers import free_ports

ROOT = Path(__file__).resolve().parents[1]


def steps_after(words: str) -> list[str]:
    """The lines of README's first code block after ``words``."""
    block = re.search(f"{re.escape(words)}.*?```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block
    return block[1].splitlines()


@contextmanager
def run_and_served(steps: Sequence[str], serve: str, folder: Path) -> Iterator[str]:
    """Runs ``steps`` in ``folder``, each to success, then ``serve``; gives its address once it is ready."""
    (folder / "export").symlink_to(ROOT / "export")
    (port,) = free_ports(1)
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "SKIPVIT_PORT": str(port)}
    for step in steps:
        done = subprocess.run(
            shlex.split(step), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(shlex.split(serve), cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(server, url, folder / "server.log")
            yield url
        finally:
            server.terminate()
            assert server.wait(timeout=120) == 0, "SIGTERM drains and exits 0"


def _wait_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"not ready in 180 s: {log.read_text()}")
