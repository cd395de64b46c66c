"""Serve a folder of models over HTTP, with a page to try them on.

    skipvit-serve models
    curl -T digit.png -H 'Content-Type: image/png' http://127.0.0.1:8000/v1/classify
    skipvit-serve models --engine tensorrt

Every setting is a flag and an environment variable, such as SKIPVIT_MAX_BODY_BYTES; flags win,
and --config names a file for the rest. On SIGTERM
/readyz turns to 503, requests in flight are finished, and the exit code is 0.
"""

import argparse
import contextlib
import errno
import signal
import socket
import sys
import time
import tomllib
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from serve.app import create_app
from serve.engine import EngineUnavailable
from serve.heap import return_large_blocks
from serve.logs import set_up_logging
from serve.repository import Repository
from serve.settings import Settings
from skipvit.artifacts import ArtifactError

_SHORTER = {"decode_threads": ("--threads",)}


class _Server(uvicorn.Server):
    """Uvicorn with a drain: SIGTERM first takes the server out of rotation, and ends in exit code 0."""

    def __init__(self, config: uvicorn.Config, settings: Settings, repository: Repository, url: str) -> None:
        super().__init__(config)
        self._settings = settings
        self._repository = repository
        self._url = url
        self._announced = False
        self._leave_at: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # Uvicorn's own raises the signal again at the end, and the process would die of it instead of exiting with 0.
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._leave_at is not None:
            self.should_exit = self.force_exit = True  # asked twice: now
            return
        self._repository.drain()
        lame_duck_s = self._settings.lame_duck_s if sig == signal.SIGTERM else 0.0
        self._leave_at = time.monotonic() + lame_duck_s

    async def on_tick(self, counter: int) -> bool:
        if not self._announced and self._repository.state == "ready":
            self._announced = True
            print(f"skipvit-serve: ready, open {self._url}", flush=True)
        if self._repository.failure is not None:
            self.should_exit = True
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until told to stop; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        given = {name: getattr(args, name) for name in _flags() if getattr(args, name) is not None}
        settings = Settings.load(args.config, **given)
    except ValidationError as error:
        return _fail("; ".join(map(_explain, error.errors())))
    except (OSError, tomllib.TOMLDecodeError, SettingsError) as error:
        return _fail(f"the configuration cannot be read: {error}")
    try:
        repository = Repository.open(args.models_dir, settings)
    except (ArtifactError, EngineUnavailable) as error:
        return _fail(str(error))
    videos = [model.name for model in repository.models.values() if model.task == "video-denoising"]
    if videos and find_spec("av") is None:
        repository.close()
        return _fail(
            f"model {videos[0]!r} denoises video, which needs PyAV; run: pip install 'skipvit[video]', "
            "or serve a folder without that model"
        )
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        repository.close()
        taken = "stop what listens there, or give another --port (0 takes a free one)"
        cure = taken if error.errno == errno.EADDRINUSE else "give another --host or --port"
        return _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; {cure}")
    return _serve(settings, repository, listener)


def _serve(settings: Settings, repository: Repository, listener: socket.socket) -> int:
    set_up_logging(settings.log_format)
    if any(model.task != "classification" for model in repository.models.values()):
        return_large_blocks()  # classifiers hold no picture long, and would only fault the same pages in again
    config = uvicorn.Config(
        create_app(settings, repository),
        access_log=False,  # the app writes its own, with the request id
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=1024,
    )
    server = _Server(config, settings, repository, _url(settings.host, listener))
    server.run(sockets=[listener])
    if repository.failure is not None:
        return _fail(f"a model failed to warm up: {repository.failure}")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{listener.getsockname()[1]}/"


def _explain(error: ErrorDetails) -> str:
    """A bad setting by both of its names, with the value that came."""
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    name = str(error["loc"][0])
    if len(error["loc"]) > 1 or error["type"] == "extra_forbidden":
        return f"{'.'.join(map(str, error['loc']))} is {error['input']!r}: {error['msg']}"
    return f"--{name.replace('_', '-')} or SKIPVIT_{name.upper()} is {error['input']!r}: {error['msg']}"


def _fail(message: str) -> int:
    print(f"skipvit-serve: {message}", file=sys.stderr)
    return 1


def _flags() -> dict[str, FieldInfo]:
    """The settings that are flags; models and groups have tables in the configuration file."""
    return {name: knob for name, knob in Settings.model_fields.items() if name not in ("models", "groups")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvit-serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models_dir", type=Path, metavar="MODELS_DIR", help="model repository: NAME/VERSION/model.onnx")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of settings, with [models.NAME] and [groups.NAME]"
    )
    for name, knob in _flags().items():
        flags = [f"--{name.replace('_', '-')}", *_SHORTER.get(name, ())]
        what = " ".join((knob.description or "").split()).replace("%", "%%")
        text = f"{what} Default: {knob.default}."
        if knob.annotation is bool:
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction, dest=name, default=None, help=text)
        else:
            # Values stay text here: Settings checks them, wherever they came from, and names the one at fault.
            parser.add_argument(*flags, dest=name, metavar="VALUE", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
