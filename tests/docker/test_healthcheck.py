"""The images' HEALTHCHECK, run as Docker runs it."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.docker.dockerfile import ROOT


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers everything with one status; yields its port and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield str(server.server_port), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def healthcheck(port: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", ROOT / "docker" / "healthcheck.py"],
        env={"PATH": os.environ["PATH"], "SKIPVIT_PORT": port, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_ready_server_is_healthy() -> None:
    with answering(200) as (port, asked):
        result = healthcheck(port, http_proxy="http://127.0.0.1:1")  # a proxy that is not there, and is not asked
    assert (result.returncode, asked, result.stdout[:3]) == (0, ["/readyz"], "200")


def test_server_that_warms_up_or_drains_is_not() -> None:
    with answering(503) as (port, _):
        result = healthcheck(port)
    assert (result.returncode, result.stdout[:3]) == (1, "503")


def test_no_server_is_not() -> None:
    with answering(200) as (port, _):
        pass
    result = healthcheck(port)
    assert result.returncode == 1
    assert f"no answer from port {port}" in result.stdout
    assert not result.stderr


def test_port_of_a_linked_container_is_not_taken_for_ours() -> None:
    assert not healthcheck("tcp://10.0.0.1:80").stderr  # whether or not something answers on the default port
