"""The clients against a server that plays a script: retries, deadlines, and answers of every kind."""

import asyncio
import io
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipvit.client import (
    AsyncClient,
    BadInput,
    BrokenAnswer,
    Classification,
    Client,
    ClientError,
    DeadlineExceeded,
    Overloaded,
    Refused,
    Retries,
    ServerFailed,
    Unreachable,
)
from tests.no_room import no_room
from tests.skipvit.scripted_server import answer, classified, problem, scripted

PICTURE = b"bytes of a picture"
QUICK = Retries(3, first_s=0.001, longest_s=0.001)
BUSY = answer(429, problem("overloaded"), {"Retry-After": "0"})
CUT = {"Content-Length": "999", "Connection": "close"}


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("refusal", [BUSY, answer(503, problem("not_ready")), answer(503, b"<html>", {})])
def test_a_server_that_is_busy_is_asked_again(refusal: bytes) -> None:
    with scripted(refusal, refusal, answer(200, classified())) as server, Client(server.url, retries=QUICK) as client:
        assert client.classify(PICTURE).best.label == "7"
    assert [body for _, _, body in server.seen] == [PICTURE] * 3


def test_retry_after_is_waited_for() -> None:
    busy = answer(429, problem("overloaded"), {"Retry-After": "1"})
    with scripted(busy, answer(200, classified())) as server, Client(server.url, retries=QUICK) as client:
        client.classify(PICTURE)
    assert server.times[1] - server.times[0] >= 1.0


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    busy = answer(429, problem("overloaded", "128 pictures are in flight"), {"Retry-After": "3600"})
    with scripted(busy) as server, Client(server.url, timeout_s=60) as client:
        with pytest.raises(Overloaded, match="128 pictures are in flight") as caught:
            client.classify(PICTURE)
        assert (caught.value.status, caught.value.retry_after_s) == (429, 3600)
    assert len(server.seen) == 1


def test_retries_end() -> None:
    with scripted(BUSY) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(Overloaded):
            client.classify(PICTURE)
        assert len(server.seen) == 1 + QUICK.count


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (404, Refused), (413, Refused), (422, Refused), (500, ServerFailed)]
)
def test_other_errors_are_not_asked_again_and_carry_the_servers_words(status: int, kind: type[ClientError]) -> None:
    said = answer(status, problem("not_an_image"), {"X-Request-ID": "abc", "Retry-After": "0"})
    with scripted(said) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(kind, match="it is wrong; make it right") as caught:
            client.classify(PICTURE)
        expected = {"code": "not_an_image", "message": "it is wrong", "hint": "make it right", "status": status}
        assert caught.value.as_dict() == {**expected, "id": "abc"}
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b'{"error": "text"}', b"[" * 100_000, b'{"error": {"code": 1}}']
)
def test_an_error_of_something_else_is_said_to_be_one(body: bytes) -> None:
    with (
        scripted(answer(502, body)) as server,
        Client(server.url) as client,
        pytest.raises(ServerFailed, match=r"HTTP status 502.*proxy") as caught,
    ):
        client.classify(PICTURE)
    assert caught.value.code == "http_502"


def test_the_deadline_holds_for_an_answer_that_drips() -> None:
    with scripted(b"HTTP/1.1 200 OK\r\n", 30.0) as server, Client(server.url, timeout_s=0.3) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
            client.classify(PICTURE)
        assert time.monotonic() - began < 10


def test_the_deadline_names_what_was_heard_before_it() -> None:
    with (
        scripted(BUSY, 30.0, BUSY) as server,
        Client(server.url, timeout_s=3.0, retries=QUICK) as client,
        pytest.raises(DeadlineExceeded, match="before that: it is wrong"),
    ):
        client.classify(PICTURE)


@pytest.mark.parametrize(
    "said",
    [
        answer(200, classified(), CUT),
        answer(200, b"no JSON"),
        answer(200, {"results": []}),
        answer(200, {**classified(), "results": []}),
        answer(200, {**classified(), "results": [{"file": None}]}),
        answer(200, {**classified(), "model": {"name": "digits", "version": 1}}),
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_a_broken_answer_is_one_error(said: bytes) -> None:
    with scripted(said) as server, Client(server.url, retries=QUICK, timeout_s=5) as client:
        with pytest.raises(BrokenAnswer):
            client.classify(PICTURE)
        assert len(server.seen) == 1


def test_a_newer_servers_fields_are_passed_over() -> None:
    with scripted(answer(200, classified(mood="sunny"))) as server, Client(server.url) as client:
        assert client.classify(PICTURE).model.name == "digits"


def test_nobody_there_says_what_to_start() -> None:
    url = free_url()
    with Client(url, retries=QUICK) as client, pytest.raises(Unreachable, match="is skipvit-serve running") as caught:
        client.classify(PICTURE)
    assert url in str(caught.value)


def test_a_server_that_starts_late_is_waited_for() -> None:
    port = int(free_url().rpartition(":")[2])
    with Client(f"http://127.0.0.1:{port}", retries=Retries(200, 0.05, 0.05)) as client:
        found: list[Classification] = []
        asking = threading.Thread(target=lambda: found.append(client.classify(PICTURE)))
        asking.start()
        time.sleep(0.2)
        with socket.create_server(("127.0.0.1", port)) as listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer(200, classified()))
                asking.join()
    assert found[0].best.label == "7"


def test_an_unknown_host_is_not_asked_again() -> None:
    retries = Retries(50, 1, 1)
    unknown = pytest.raises(Unreachable, match=r"nowhere\.invalid cannot be reached")
    with Client("http://nowhere.invalid", retries=retries) as client, unknown:
        client.models()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "", "http://x/?a=1", "http://[::1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="is not a server's URL"):
        Client(url)


def test_the_key_travels_in_one_header_and_is_checked() -> None:
    with scripted(answer(200, classified())) as server, Client(server.url, api_key="s3cret") as client:
        client.classify(PICTURE, model="digits", top_k=3)
    line, headers, _ = server.seen[0]
    assert line == "POST /v1/classify?model=digits&top_k=3 HTTP/1.1"
    assert headers["authorization"] == "Bearer s3cret"
    for key in ("", "two words", "line\nbreak", "ключ"):
        with pytest.raises(BadInput, match="SKIPVIT_API_KEY"):
            AsyncClient(api_key=key)


def test_many_keep_their_order_and_fail_alone(tmp_path: Path) -> None:
    with scripted(answer(200, classified())) as server, Client(server.url) as client:
        steps: list[int] = []
        results = client.classify_many([PICTURE, tmp_path / "none.png", PICTURE], done=lambda: steps.append(1))
    assert [type(result) for result in results] == [Classification, BadInput, Classification]
    assert len(steps) == 3


def test_many_stop_when_nobody_is_there() -> None:
    with Client(free_url(), retries=0) as client:
        results = client.classify_many([PICTURE] * 50, concurrency=2)
    assert len(results) == 50
    assert len({id(result) for result in results}) <= 2


def test_async_client_runs_calls_side_by_side() -> None:
    async def play(url: str) -> list[Classification]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(client.classify(PICTURE) for _ in range(5)))

    with scripted(answer(200, classified())) as server:
        assert [found.best.index for found in asyncio.run(play(server.url))] == [0] * 5


def test_a_closed_client_says_so() -> None:
    client = Client("http://127.0.0.1:9")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models()


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 4), np.float32), "float32, uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (Image.new("CMYK", (2, 2)), "CMYK.*RGB"),
        ("https://example.org/cat.jpg", "is a URL"),
        ("/nowhere/cat.jpg", "does not exist"),
        ("a\0b", "cannot be read|does not exist"),
        (".", "is a folder"),
        ([1, 2], "a list is no picture"),
    ],
)
def test_what_is_no_picture_never_leaves(picture: object, said: str) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(BadInput, match=said):
        client.classify(picture)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_and_images_are_sent_exactly(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with scripted(answer(200, classified())) as server, Client(server.url) as client:
        client.classify(pixels)
        client.classify(Image.fromarray(pixels.squeeze()))
    for _, _, body in server.seen:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body))), pixels.squeeze())


def test_a_picture_of_another_type_is_refused() -> None:
    other = pytest.raises(BrokenAnswer, match=r"application/json, image/\* was needed")
    with scripted(answer(200, b"{}")) as server, Client(server.url) as client, other:
        client.denoise(PICTURE)


@pytest.mark.parametrize("said", [answer(200, b"half a clip", {"Content-Type": "video/mp4"} | CUT), answer(400)])
def test_a_clip_is_complete_or_not_there(tmp_path: Path, said: bytes) -> None:
    with scripted(said) as server, Client(server.url) as client, pytest.raises(ClientError):
        client.denoise_video(PICTURE, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_clip(tmp_path: Path) -> None:
    long = answer(200, bytes(1 << 18), {"Content-Type": "video/mp4"})
    full = pytest.raises(BadInput, match=r"out\.mp4 cannot be written: File too large")
    with scripted(long) as server, Client(server.url) as client, no_room(1 << 16), full:
        client.denoise_video(PICTURE, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_overwrites_when_told_to_only(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"mine")
    with scripted(answer(200, b"clip", {"Content-Type": "video/mp4"})) as server, Client(server.url) as client:
        with pytest.raises(BadInput, match=r"out\.mp4 exists"):
            client.denoise_video(PICTURE, out)
        assert (out.read_bytes(), server.seen) == (b"mine", [])
        assert client.denoise_video(PICTURE, out, overwrite=True).size == 4
    assert out.read_bytes() == b"clip"


def test_importing_skipvit_loads_no_client_and_the_client_no_model() -> None:
    heavy = "('torch', 'timm', 'fastapi', 'starlette', 'onnxruntime', 'serve')"
    code = (
        "import sys, skipvit; light = 'httpx' not in sys.modules; import skipvit.client;"
        f"sys.exit(not light or any(name in sys.modules for name in {heavy}))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_without_its_packages_the_program_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['httpx'] = None; from skipvit.client_entry import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "skipvit-client: httpx is not installed; run: pip install 'skipvit[client]'\n"
