"""Structured logs on stderr: JSON lines for machines, one readable line for people."""

import logging
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal

import orjson

from serve.monitoring.log_lines import LinesHandler

# The trace that a request belongs to, where OpenTelemetry is on; every line that is written for it carries it.
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")


class JsonFormatter(logging.Formatter):
    """One JSON object per record; ``extra={"fields": {...}}`` is merged into it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message, then ``key=value``. Control characters are escaped, so no request can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{key}={_in_one_piece(value)}" for key, value in _fields(record).items())
        message = _one_line(f"{record.getMessage()} {fields}".rstrip())
        text = f"{clock} {record.levelname.lower():<8} {message}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(log_format: Literal["auto", "json", "text"], *, shared: bool = False) -> None:
    """Sends the log of this process to stderr, warnings of libraries included.

    In a process that is ``shared``, others have formatters of their own.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = LinesHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its start and stop lines repeat ours
    logging.getLogger("PIL").setLevel(logging.WARNING)
    if not shared:
        _leave_out_origins()


def _leave_out_origins() -> None:
    """Has records carry nothing that is not written: to find the caller's line is most of what a record costs.

    These are the optimizations of Python's logging HOWTO.
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def flush_log(timeout_s: float = 1.0) -> None:
    """Writes what was logged, for a process that is about to end without the interpreter's own leave.

    Where nobody reads it, and a write does not return, it goes on after ``timeout_s``.
    """
    for handler in logging.getLogger().handlers:
        with suppress(RuntimeError):  # no thread is to be had any more
            thread = threading.Thread(target=handler.flush, name="last-lines", daemon=True)
            thread.start()
            thread.join(timeout_s)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if hasattr(record, "request_id"):
        fields["request_id"] = record.request_id
    if trace_id := TRACE_ID.get():
        fields["trace_id"] = trace_id
    return fields


def _timestamp(created: float) -> str:
    return f"{_whole_seconds(int(created))}.{int(created % 1 * 1000):03d}Z"


@lru_cache(maxsize=1)  # of many requests in the same second
def _whole_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _in_one_piece(value: object) -> str:
    """A value in quotes where it has a space: a client's path must not pass for another field."""
    text = str(value)
    return repr(text) if " " in text else text


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
