"""Over a real socket: slow, lying, endless and vanishing clients, and many at once."""

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve.models.repository import Repository
from serve.settings import Settings
from tests.serve.servers import held_repository, over_socket, png, wait_until

PNG = {"Content-Type": "image/png"}


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def exchange(url: str, *pieces: bytes, pause_s: float = 0.0) -> tuple[int, dict[str, str], bytes]:
    """Sends raw bytes and reads one response."""
    with socket.create_connection(address(url), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        return read_response(connection)


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += (chunk := connection.recv(65536))
        assert chunk, f"the connection was closed after {received!r}"
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, body


def test_curl_t_puts_a_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(png(255))
    command = ["curl", "-sS", "-T", tmp_path / "digit.png", "-H", "Content-Type: image/png", f"{url}/v1/classify"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=20).stdout)
    assert answer["results"][0]["predictions"][0]["label"] == "9"


def test_64_concurrent_posts_with_one_bad(url: str) -> None:
    async def main() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            bodies = [b"bad" if k == 40 else png(255 * (k % 10) // 9) for k in range(64)]
            return await asyncio.gather(*(client.post("/v1/classify", content=b, headers=PNG) for b in bodies))

    responses = asyncio.run(main())
    assert sorted(r.status_code for r in responses) == [200] * 63 + [400]
    for k, response in enumerate(responses):
        if k != 40:
            assert response.json()["results"][0]["predictions"][0]["label"] == str(k % 10)


def test_a_body_in_small_chunks(url: str) -> None:
    body = png(255, size=(64, 64))
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[i : i + 7] for i in range(0, len(body), 7))]
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, answer = exchange(url, head, *chunks, b"0\r\n\r\n")
    assert status == 200
    assert json.loads(answer)["results"][0]["predictions"][0]["label"] == "9"


@contextlib.contextmanager
def taking_little(models_dir: Path, body_timeout_s: float) -> Iterator[str]:
    """A server that takes bodies of 100 kB, and waits for them so long."""
    settings = Settings(
        decode_threads=1, engine_threads=1, max_body_bytes=100_000, body_timeout_s=body_timeout_s, access_log=False
    )
    with over_socket(Repository.open(models_dir, settings), settings) as url:
        yield url


@pytest.fixture(scope="module")
def small(models_dir: Path) -> Iterator[str]:
    with taking_little(models_dir, 60.0) as url:
        yield url


@pytest.fixture(scope="module")
def hasty(models_dir: Path) -> Iterator[str]:
    with taking_little(models_dir, 0.5) as url:
        yield url


def test_an_endless_chunked_body_is_cut_off_and_the_answer_arrives(small: str) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    status, headers, body = exchange(small, head, *[piece] * 200, b"0\r\n\r\n")  # 13 MB, all sent before reading
    assert status == 413
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]["message"] == "the body has over 100000 bytes, the limit is 100000"


def test_a_large_content_length_is_refused_unread(small: str) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9999999999\r\n\r\n"
    status, _, body = exchange(small, head)  # it waits for no body: none comes, and that would be a 408
    assert status == 413
    assert "9999999999 bytes" in json.loads(body)["error"]["message"]


def test_expect_continue_is_answered_before_the_body(small: str) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n"
    assert exchange(small, head)[0] == 413


def test_a_lying_content_length(small: str, hasty: str) -> None:
    """Too short a body times out; one that is longer than it says is the next request, and a bad one."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    body = png(255)
    status, headers, answer = exchange(hasty, head % (len(body) + 50), body)
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(answer)["error"]["code"] == "body_timeout"
    status, _, _ = exchange(small, head % len(body), body + b"surplus")
    assert status in (200, 400)  # what follows is no request, and may be noticed before the answer is sent
    assert exchange(small, head % len(body), body)[0] == 200


def test_a_client_that_trickles_is_cut_off(hasty: str) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    status, _, body = exchange(hasty, head, *[b"x"] * 4, pause_s=0.15)
    assert status == 408
    assert "in 0.5 s, and not its end" in json.loads(body)["error"]["message"]


def test_a_client_that_leaves_mid_body_costs_nothing(small: str) -> None:
    def left() -> float:
        text = httpx.get(f"{small}/metrics").text
        return float(text.split('skipvit_cancelled_total{where="read"} ')[1].split()[0])

    before = left()
    for _ in range(20):
        with socket.create_connection(address(small)) as connection:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
    wait_until(lambda: left() == before + 20)
    assert httpx.post(f"{small}/v1/classify", content=png(), headers=PNG).status_code == 200


def test_a_client_that_leaves_while_queued_is_not_computed(models_dir: Path) -> None:
    settings = Settings(decode_threads=1, engine_threads=1, access_log=False)
    repository, engine = held_repository(models_dir, settings)
    with over_socket(repository, settings) as url:
        engine.gate.clear()
        warm_runs = engine.entered
        statuses: list[int] = []
        first = threading.Thread(
            target=lambda: statuses.append(
                httpx.post(f"{url}/v1/classify", content=png(), headers=PNG, timeout=20).status_code
            )
        )
        first.start()
        wait_until(lambda: engine.entered == warm_runs + 1)  # sits in the engine
        batcher = repository.models["shades"].batcher
        body = png()
        head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        for place in (1, 2, 3):
            with socket.create_connection(address(url)) as connection:
                connection.sendall(head + body)
                wait_until(lambda place=place: batcher.waiting == place)  # type: ignore[misc]
        metrics = f"{url}/metrics"
        wait_until(lambda: 'skipvit_cancelled_total{where="queue"} 3.0' in httpx.get(metrics).text)
        engine.gate.set()
        first.join()
        wait_until(lambda: batcher.waiting == 0)
        assert statuses == [200]
        assert httpx.post(f"{url}/v1/classify", content=png(), headers=PNG).status_code == 200
        assert engine.entered - warm_runs == 2  # the first and the last
        assert 'outcome="cancelled"' in httpx.get(metrics).text


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    request = (
        b"POST /v1/classify?top_k=1 HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s"
    )
    with socket.create_connection(address(url), timeout=20) as connection:
        bodies = [png(0), png(255)]
        connection.sendall(b"".join(request % (len(body), body) for body in bodies))
        first, second = (json.loads(body) for body in split_responses(connection, 2))
    assert [a["results"][0]["predictions"][0]["label"] for a in (first, second)] == ["0", "9"]


def split_responses(connection: socket.socket, count: int) -> list[bytes]:
    received = b""
    bodies: list[bytes] = []
    while len(bodies) < count:
        received += connection.recv(65536)
        while b"\r\n\r\n" in received:
            head, _, rest = received.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(rest) < length:
                break
            bodies.append(rest[:length])
            received = rest[length:]
    return bodies
