"""Log lines: JSON for machines, one unforgeable line for people."""

import json
import logging
import sys

from serve.monitoring.logs import JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("serve.access", logging.INFO, "f.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_lines_carry_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record("request", fields={"status": 200, "path": "/a\nb"})))
    assert line["level"] == "info"
    assert line["status"] == 200
    assert line["path"] == "/a\nb"
    assert line["time"].endswith("Z")


def test_json_lines_carry_exceptions() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        made = logging.LogRecord("serve", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonFormatter().format(made))
    assert "ValueError: broken" in line["exception"]


def test_text_lines_cannot_be_forged() -> None:
    text = TextFormatter().format(
        record("request", request_id="r1", fields={"path": "/a\n12:00:00 error hacked\x1b[2J"})
    )
    assert "\n" not in text
    assert "\x1b" not in text
    assert "request_id=r1" in text
    assert r"\n12:00:00" in text


def test_text_fields_cannot_be_forged() -> None:
    text = TextFormatter().format(record("request", fields={"path": "/a status=200 key=ops", "status": 401}))
    assert text.endswith("request path='/a status=200 key=ops' status=401")
