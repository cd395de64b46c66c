"""A tiny HTTP server that answers as it was told, request by request, down to the bytes."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any


def answer(status: int, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None) -> bytes:
    """An HTTP answer as bytes; a dict becomes JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + content


def classified(label: str = "7", **more: Any) -> dict[str, Any]:
    """An answer to a request with one picture."""
    result = {"file": None, "predictions": [{"label": label, "index": 0, "probability": 0.5}]}
    return {"id": "abc", "model": {"name": "digits", "version": "1"}, "results": [result], **more}


def problem(code: str, message: str = "it is wrong", hint: str = "make it right") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint}, "id": "abc"}


@dataclass
class Script:
    """Answers in order, the last one again and again; a number among them is seconds to wait before the next."""

    answers: list[bytes | float]
    url: str = ""
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> bytes:
        with self.lock:
            step = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(step, bytes):
            return step
        time.sleep(step)
        return self.next()


@contextmanager
def scripted(*answers: bytes | float) -> Iterator[Script]:
    """A server on a free port; an answer that is shorter than its Content-Length ends the connection."""
    script = Script(list(answers))

    class Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                head = b""
                while (field := self.rfile.readline()) not in (b"\r\n", b""):
                    head += field
                headers = {k.lower(): v for k, v in BytesParser(policy=HTTP).parsebytes(head).items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                script.seen.append((line.decode().strip(), headers, body))
                script.times.append(time.monotonic())
                said = script.next()
                self.wfile.write(said)
                if b"\r\nConnection: close\r\n" in said:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hung up is part of the play."""

    with Server(("127.0.0.1", 0), Conversation) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
