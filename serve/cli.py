"""Serve a folder of models over HTTP, with a page to try them on.

    skipvit-serve models
    curl -T digit.png -H 'Content-Type: image/png' http://127.0.0.1:8000/v1/classify
    skipvit-serve models --engine tensorrt

Every setting is a flag and an environment variable, such as SKIPVIT_MAX_BODY_BYTES; flags win,
and --config names a file for the rest. On SIGTERM
/readyz turns to 503, requests in flight are finished, and the exit code is 0.

A group in that file answers by the most exact of its variants that keeps 99 of 100 answers
within p99_ms; under load it steps down the list, and up again after it:

    [groups.digits]
    variants = ["digits_vit", "digits_skipat", "digits_fast"]
    p99_ms = 50

    curl -T digit.png -H 'Content-Type: image/png' 'http://127.0.0.1:8000/v1/classify?model=digits'
"""

import argparse
import errno
import logging
import os
import socket
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from serve.app import create_app
from serve.engines.engine import EngineUnavailable
from serve.heap import return_large_blocks
from serve.models.group import GroupError, open_groups
from serve.models.repository import Repository
from serve.monitoring.logs import set_up_logging
from serve.monitoring.tracing import TracingUnavailable, check_packages
from serve.scheduling import take_long_slices
from serve.settings import Settings
from serve.web.api_keys import BadKeys, new_key, read_keys
from serve.web.http_server import HttpServer, end_past_hung_threads, listen, url_of
from serve.web.tls import BadCertificate, tls_of
from skipvit.artifacts import ArtifactError

logger = logging.getLogger(__name__)

_SHORTER = {"decode_threads": ("--threads",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until told to stop; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        given = {name: getattr(args, name) for name in flags() if getattr(args, name) is not None}
        settings = Settings.load(args.config, **given)
    except ValidationError as error:
        return _fail("; ".join(map(_explain, error.errors())))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, SettingsError) as error:
        return _fail(f"the configuration cannot be read: {error}")
    try:
        if settings.api_keys:
            read_keys(settings.api_keys)
        tls_of(settings)
        if settings.tracing == "on":
            check_packages()
    except (BadKeys, BadCertificate, TracingUnavailable) as error:
        return _fail(str(error))
    if settings.fronts:
        return _serve_with_fronts(args.models_dir, settings)
    try:
        repository = Repository.open(args.models_dir, settings)
    except (ArtifactError, EngineUnavailable) as error:
        return _fail(str(error))
    try:
        open_groups(settings, repository.models)
    except GroupError as error:
        repository.close()
        return _fail(str(error))
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        repository.close()
        return _fail(_cannot_listen(settings, error))
    return _serve(settings, repository, listener)


def _begin(settings: Settings) -> None:
    """Says and does what comes before the server's threads and other processes."""
    set_up_logging(settings.log_format)
    if settings.scheduling == "batch":
        logger.info("%s", take_long_slices())


def _serve_with_fronts(models_dir: Path, settings: Settings) -> int:
    if not (sys.platform == "linux" and hasattr(os, "memfd_create")):
        return _fail("--fronts needs memory and ports that processes share, as Linux has them; leave it out here")
    from serve.fronts.supervisor import Supervisor

    _begin(settings)
    try:
        listen(settings.host, settings.port).close()  # a port that is shared would not say that it is taken
        claim = listen(settings.host, settings.port, shared=True)
    except OSError as error:
        return _fail(_cannot_listen(settings, error))
    return Supervisor(models_dir, settings, claim, lambda: _announce(settings, claim)).run()


def _cannot_listen(settings: Settings, error: OSError) -> str:
    taken = "stop what listens there, or give another --port (0 takes a free one)"
    cure = taken if error.errno == errno.EADDRINUSE else "give another --host or --port"
    return f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; {cure}"


def _announce(settings: Settings, listener: socket.socket) -> None:
    url = url_of(settings.host, listener.getsockname()[1], tls=settings.tls_cert is not None)
    print(f"skipvit-serve: ready, open {url}", flush=True)


def _serve(settings: Settings, repository: Repository, listener: socket.socket) -> int:
    _begin(settings)
    if any(model.task != "classification" for model in repository.models.values()):
        return_large_blocks()  # classifiers hold no picture long, and would only fault the same pages in again
    app = create_app(settings, repository)
    server = HttpServer(app, settings, repository, lambda: _announce(settings, listener), app.state.shedding)
    server.run(sockets=[listener])
    code = 0
    if repository.failure is not None:
        code = _fail(f"a model failed to warm up: {repository.failure}")
    end_past_hung_threads(code)
    return code


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


class _NewKey(argparse.Action):
    """Makes an API key and ends: ``skipvit-serve --new-key web >> keys.txt`` shows the key once, and keeps its hash."""

    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: object, value: object, _option: str | None = None
    ) -> None:
        name, _, scopes = str(value).partition(":")
        try:
            key, line = new_key(name, scopes.split(",") if scopes else ("infer",))
        except BadKeys as error:
            parser.error(str(error))
        print(line)
        print(f"the key, shown this once: {key}", file=sys.stderr)
        parser.exit()


def flags() -> dict[str, FieldInfo]:
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
    parser.add_argument(
        "--new-key",
        action=_NewKey,
        metavar="NAME[:SCOPES]",
        help="print a line for --api-keys on stdout and the key itself on stderr, and end; SCOPES are infer, metrics "
        "and admin, separated by commas. Default: infer.",
    )
    for name, knob in flags().items():
        spelled = [f"--{name.replace('_', '-')}", *_SHORTER.get(name, ())]
        what = " ".join((knob.description or "").split()).replace("%", "%%")
        text = f"{what} Default: {knob.default}."
        if knob.annotation is bool:
            parser.add_argument(*spelled, action=argparse.BooleanOptionalAction, dest=name, default=None, help=text)
        else:
            # Values stay text here: Settings checks them, wherever they came from, and names the one at fault.
            parser.add_argument(*spelled, dest=name, metavar="VALUE", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
