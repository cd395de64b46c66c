"""A full server over real sockets: who is told so at once, who by the app, and that both say the same."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from serve.app import create_app
from serve.errors import Overloaded
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from serve.web.api_keys import new_key
from serve.web.bounded_http import MAX_PIPELINED, BoundedHttp
from serve.web.http_server import HttpServer, listen
from serve.web.loop_rest import Rest
from serve.web.shedding import Answer, Shedding
from tests.serve.servers import held_repository, png, wait_until
from tests.serve.test_bounded_http import echo

CLASSIFY = "/v1/classify"
PICTURE = png()
KEY, KEY_LINE = new_key("web")


def request(*headers: bytes, target: bytes = b"/v1/classify", method: bytes = b"POST") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(PICTURE), *headers]
    return b"\r\n".join([*lines, b"", PICTURE])


class Full:
    """A server whose one place is taken; ``shed`` are the answers that its app did not hear of."""

    def __init__(self, port: int, shed: list[Answer], free: Callable[[], None], counts: Metrics) -> None:
        self.port = port
        self.counts = counts
        self.shed = shed
        self.free = free
        self.url = f"http://127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics").text


@contextmanager
def full(models_dir: Path, monkeypatch: pytest.MonkeyPatch, leaving: bool = False, **changes: object) -> Iterator[Full]:
    settings = Settings(**{"decode_threads": 1, "engine_threads": 1, "max_in_flight": 1, "max_files": 1, **changes})
    repository, engine = held_repository(models_dir, settings)
    shed: list[Answer] = []
    ask = Shedding.answer

    def noted(self: Shedding, *asked: object) -> Answer | None:
        answer = ask(self, *asked)  # type: ignore[arg-type]
        if answer is not None:
            shed.append(answer)
        return answer

    monkeypatch.setattr(Shedding, "answer", noted)
    app = create_app(settings, repository)
    config = HttpServer(app, settings, repository, lambda: None, app.state.shedding).config
    config.headers = [("Connection", "close")] if leaving else []
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with ThreadPoolExecutor(1) as pool:
        try:
            wait_until(lambda: server.started and repository.state == "ready")
            engine.gate.clear()
            engine.entered = 0
            found = Full(listener.getsockname()[1], shed, engine.gate.set, app.state.metrics)
            headers = {"X-API-Key": KEY}
            held = pool.submit(httpx.post, found.url + CLASSIFY, content=PICTURE, headers=headers, timeout=60)
            wait_until(lambda: engine.entered == 1)
            yield found
            engine.gate.set()
            assert held.result().status_code == 200
        finally:
            engine.gate.set()
            server.should_exit = True
            thread.join()


def answered(connection: socket.socket) -> bytes:
    """One whole answer."""
    came = b""
    while True:
        head, end, body = came.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and length is not None and len(body) >= int(length[1]):
            assert len(body) == int(length[1])
            return came
        piece = connection.recv(65536)
        assert piece, came
        came += piece


@pytest.mark.parametrize("origins", [(), ("http://x",), ("*",)], ids=["no other sites", "one", "all"])
def test_what_is_shed_hears_what_the_app_says(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, origins: tuple[str, ...]
) -> None:
    with full(models_dir, monkeypatch, cors_origins=origins) as server, server.connect() as connection:

        def answer(*headers: bytes, method: bytes = b"POST") -> list[bytes]:
            connection.sendall(request(b"X-Request-ID: mine", *headers, method=method))
            lines = answered(connection).split(b"\r\n")
            return [line for line in lines if not line.startswith(b"date: ")]

        shed = answer()
        assert len(server.shed) == 1
        assert answer(b"X-Forwarded-For: 10.0.0.1") == shed
        assert len(server.shed) == 1, "the app was to answer this one"
        assert answer(method=b"PUT") == shed
        assert len(server.shed) == 2
        assert shed[0] == b"HTTP/1.1 429 Too Many Requests"
        assert {b"retry-after: 1", b"x-request-id: mine", b"x-content-type-options: nosniff"} < set(shed)


@pytest.mark.parametrize(
    "sent",
    [
        request(target=b"/v1/classify?top_k=1"),
        request(b"Connection: close"),
        request(b"Expect: 100-continue"),
        request(b"Origin: http://x"),
        request(b"Sec-Fetch-Site: none"),
        request(b"X-Forwarded-Proto: https"),
        request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["query", "last", "waiting for leave", "origin", "browser", "proxy", "HTTP/1.0"],
)
def test_what_is_unusual_is_left_to_the_app(models_dir: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with full(models_dir, monkeypatch) as server, server.connect() as connection:
        connection.sendall(sent)
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        assert not server.shed


def test_a_server_that_leaves_closes_its_connections(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(models_dir, monkeypatch, leaving=True) as server, server.connect() as connection:
        connection.sendall(request())
        answer = answered(connection)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nconnection: close\r\n" in answer
        with suppress(ConnectionError):
            assert connection.recv(1) == b""
        assert not server.shed


def test_a_connection_goes_on_after_a_refusal(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(models_dir, monkeypatch) as server, server.connect() as connection:
        whole = request()
        head = len(whole) - len(PICTURE)
        for piece in (whole[:20], whole[20:head], whole[head:-5]):
            connection.sendall(piece)
        assert answered(connection).startswith(b"HTTP/1.1 429 "), "the answer waits for no body"
        connection.sendall(whole[-5:] + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answered(connection).startswith(b"HTTP/1.1 200 ")
        chunked = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(chunked)
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        connection.sendall(b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n" + whole)
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        assert len(server.shed) == 3
        server.free()
        wait_until(lambda: httpx.post(server.url + CLASSIFY, content=PICTURE).status_code == 200)
        connection.sendall(whole)
        assert answered(connection).startswith(b"HTTP/1.1 200 ")


def test_requests_in_one_piece_are_answered_in_their_order(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(models_dir, monkeypatch) as server, server.connect() as connection:
        live = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        ids = [b"one", b"two", b"three"]
        first, second, third = (request(b"X-Request-ID: " + given) for given in ids)
        connection.sendall(first + second + live + third.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        came = b""
        while piece := connection.recv(65536):
            came += piece
        assert re.findall(rb"HTTP/1.1 (\d+)", came) == [b"429", b"429", b"200", b"429"]
        assert [given for given in re.findall(rb"x-request-id: (\w+)", came) if given in ids] == ids
        assert len(server.shed) == 2


@pytest.mark.parametrize("coding", [b"gzip", b"chunked"])
def test_what_is_wrong_in_a_refused_body_is_no_second_answer(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, coding: bytes
) -> None:
    """A proxy would give it to whoever asks next over this connection."""
    with full(models_dir, monkeypatch) as server, server.connect() as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\n" % coding)
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        with suppress(ConnectionError):
            connection.sendall(b"no size of a chunk\r\n")
            assert connection.recv(65536) == b""
        assert len(server.shed) == 1


class _AlwaysFull(BoundedHttp):
    shedding = Mock(answer=lambda _method, url, _scope: (429, [], b"") if url == CLASSIFY.encode() else None)


def connected(call_later: Callable[[float, object], Mock]) -> _AlwaysFull:
    """Without a network; what the app is asked is never done."""
    loop = Mock(call_later=call_later, create_task=Mock(side_effect=lambda run: run.close() or Mock()))
    loop.time.return_value = 0.0
    protocol = _AlwaysFull(uvicorn.Config(echo, lifespan="off", log_config=None), ServerState(), {}, loop)
    transport = Mock(get_extra_info=Mock(return_value=None), is_closing=Mock(return_value=False))
    transport.get_write_buffer_size = Mock(return_value=0)
    protocol.connection_made(transport)
    return protocol


@pytest.mark.parametrize(
    ("pieces", "rests"),
    [
        ([request()], True),
        ([request()[:-5]], True),
        ([request()[:-5], request()[-5:-3]], True),
        ([request()[:-5], request()[-5:]], True),
        ([request(), request(target=b"/slow")[:30]], False),
        ([request() + request(target=b"/slow")], False),
        ([request()[:-5], request()[-5:] + request(target=b"/slow")], False),
    ],
    ids=["whole", "half", "more of it", "in two", "next begins", "next behind it", "next behind its end"],
)
def test_a_connection_is_kept_for_a_while_unless_something_is_asked(pieces: list[bytes], rests: bool) -> None:
    """Else the time in which it may rest would end while the next request is answered, or never."""
    timers: list[tuple[object, Mock]] = []

    def call_later(_after_s: float, call: object) -> Mock:
        timers.append((call, Mock()))
        return timers[-1][1]

    protocol = connected(call_later)
    for piece in pieces:
        protocol.data_received(piece)
    end = protocol.timeout_keep_alive_handler
    assert sum(call == end and not timer.cancel.called for call, timer in timers) == rests


def test_one_client_has_not_all_of_the_server_by_what_it_sends_in_one_piece() -> None:
    protocol = connected(lambda _after_s, _call: Mock())
    for done in range(1, 4):
        protocol.data_received(request() * MAX_PIPELINED)
        assert protocol.server_state.total_requests == done * MAX_PIPELINED
        protocol.loop.create_task.assert_not_called()  # type: ignore[attr-defined]  # of a Mock
    protocol.data_received(request() * (MAX_PIPELINED + 1))
    assert protocol.server_state.total_requests == 4 * MAX_PIPELINED
    protocol.loop.create_task.assert_called_once()  # type: ignore[attr-defined]


def test_a_shed_request_is_counted_and_logged(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "serve.access")
    with full(models_dir, monkeypatch) as server:
        with server.connect() as connection:
            connection.sendall(request(b"X-Request-ID: find-me"))
            answered(connection)
        counted = server.metrics()
        assert 'skipvit_rejected_total{reason="overloaded"} 1.0' in counted
        labels = f'model="",outcome="rejected",route="{CLASSIFY}",version=""'
        assert f"skipvit_requests_total{{{labels}}} 1.0" in counted
    [fields] = [
        record.__dict__["fields"]
        for record in caplog.records
        if record.name == "serve.access" and record.__dict__["fields"]["request_id"] == "find-me"
    ]
    assert fields.pop("ms") >= 0
    assert fields == {
        "request_id": "find-me",
        "method": "POST",
        "path": CLASSIFY,
        "status": 429,
        "client": "127.0.0.1",
    }


def test_who_has_no_key_is_told_that_first(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY_LINE)
    caplog.set_level("INFO", "serve.access")
    with full(models_dir, monkeypatch, api_keys=keys) as server, server.connect() as connection:
        connection.sendall(request(b"X-API-Key: guessed"))
        assert answered(connection).startswith(b"HTTP/1.1 401 ")
        assert not server.shed
        connection.sendall(request(b"X-API-Key: " + KEY.encode(), b"X-Request-ID: find-me"))
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        assert len(server.shed) == 1
    logged = [record.__dict__["fields"] for record in caplog.records if record.name == "serve.access"]
    assert [fields["key"] for fields in logged if fields["request_id"] == "find-me"] == ["web"]


def test_who_finds_a_place_shows_a_key_once() -> None:
    entrance, gate, rest = Mock(refusal=Mock(return_value=None)), Mock(is_open=False), Mock()
    shedding = Shedding({CLASSIFY: entrance}, gate, Mock(), {}, rest)
    assert shedding.answer(b"POST", CLASSIFY.encode(), {"headers": []}) is None
    gate.check.assert_not_called()
    entrance.turned_away.assert_not_called()
    rest.after_this.assert_not_called()


def test_the_loop_rests_after_a_refusal() -> None:
    refusal = Overloaded("8 pictures are in flight and 1 more came, the limit is 8", retry_after_s=2)
    entrance, rest = Mock(refusal=Mock(return_value=refusal)), Mock()
    shedding = Shedding({CLASSIFY: entrance}, Mock(is_open=True), Mock(), {}, rest)
    answer = shedding.answer(b"POST", CLASSIFY.encode(), {"headers": []})
    assert answer is not None
    assert answer[0] == 429
    rest.after_this.assert_called_once_with()


def test_the_loop_rests_while_it_classifies(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[object] = []
    monkeypatch.setattr(Rest, "_pause_after_turns", lambda rest, _loop: rested.append(rest))
    with full(models_dir, monkeypatch) as server, server.connect() as connection:
        connection.sendall(request())
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        assert len(rested) == len(server.shed) == 1


def test_the_loop_does_not_rest_beside_requests_of_other_kinds(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[object] = []
    monkeypatch.setattr(Rest, "_pause_after_turns", lambda rest, _loop: rested.append(rest))
    with full(models_dir, monkeypatch) as server, server.connect() as connection:
        server.counts.in_flight += 1
        connection.sendall(request())
        assert answered(connection).startswith(b"HTTP/1.1 429 ")
        assert (len(rested), len(server.shed)) == (0, 1)
