"""The server on Ray Serve: the same application on as many machines as the load asks for.

    python -m serve.ray_app models --max-replicas 4
    python -m serve.ray_app models --gpus-per-replica 0.5 --set max_batch=64
    serve run serve.ray_app:build models_dir=$PWD/models max_replicas=4
    serve deploy docker/ray/serve.yaml

The first two start Ray on this machine, or join the cluster that --address or RAY_ADDRESS names, and serve until they
are told to stop. The other two are Ray's own commands, for a cluster that runs already. Every replica opens the models,
and has its own engines, threads and queues. MODELS_DIR is a folder that every node has at the same path.

HTTP is served on 127.0.0.1, port 8000, unless settings say otherwise. Ray's own services listen on the machine's
address, with a token of ~/.ray/auth_token between them. /metrics, and to load models, is one replica's and not all's.
"""

import argparse
import json
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import SettingsError

from serve.settings import Settings
from serve.web.http_server import url_of
from skipvit.artifacts import ArtifactError, model_names

# Until a replica has room, requests wait in Ray's proxy; those it refuses may come again after about this long.
_RETRY_AFTER_S = 1
_KILL_AFTER_S = 10.0
_APPLICATION = "skipvit"


def _from_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value  # as `serve run` hands it on


class RayArguments(BaseModel):
    """What ``build`` takes: arguments of `serve run`, or ``args`` in the file of `serve deploy`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    models_dir: Path
    """Model repository, NAME/VERSION/model.onnx, at the same path on every node."""
    min_replicas: int = Field(default=1, ge=1)
    """Replicas when nobody asks anything."""
    max_replicas: int = Field(default=4, ge=1)
    """Most replicas, however many requests come."""
    target_requests: float = Field(default=16.0, gt=0)
    """Requests that a replica shall have at a time, waiting ones included: with more, Ray adds a replica, and with
    fewer it takes one away. A batch forms of requests that are there together."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """How long there must be too many before a replica is added."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """How long there must be too few before a replica is taken away."""
    look_back_s: float = Field(default=15.0, gt=10)
    """Over how long the number of requests is averaged; Ray wants more than 10 s."""
    max_queued: int = Field(default=128, ge=1)
    """Requests that wait in each proxy while all replicas are full; more are answered with 429 and a Retry-After."""
    cpus_per_replica: float = Field(default=1.0, gt=0)
    """CPUs that Ray sets aside for a replica, which starts as many threads for decoding unless settings say others."""
    gpus_per_replica: float = Field(default=0.0, ge=0)
    """GPUs that Ray sets aside for a replica and shows to it; two replicas with 0.5 share one."""
    config: Path | None = None
    """TOML file of settings, as `skipvit-serve --config` takes it; read once, where replicas are asked for."""
    settings: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}
    """Settings of the server by name, such as max_batch, which win over the file's; `skipvit-serve --help` has them."""

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is over max_replicas {self.max_replicas}")
        return self


def build(arguments: RayArguments) -> Any:
    """Returns the Ray Serve application, for `serve run`, `serve deploy` and ``ray.serve.run``.

    Raises:
        ValidationError: a setting of the server is wrong.
        ModuleNotFoundError: Ray is not installed.
    """
    from ray import serve as ray_serve
    from ray.serve.config import AutoscalingConfig, BackpressureConfig

    from serve.ray_replica import Replica

    settings = settings_of(arguments)
    deployment = ray_serve.deployment(
        ray_serve.ingress()(Replica),
        name="skipvit",
        max_ongoing_requests=settings.max_in_flight,
        max_queued_requests=arguments.max_queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER_S),
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=arguments.target_requests,
            upscale_delay_s=arguments.upscale_delay_s,
            downscale_delay_s=arguments.downscale_delay_s,
            look_back_period_s=arguments.look_back_s,
        ),
        ray_actor_options={"num_cpus": arguments.cpus_per_replica, "num_gpus": arguments.gpus_per_replica},
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=settings.drain_s + _KILL_AFTER_S,
        max_constructor_retry_count=3,
    )
    return deployment.bind(arguments.models_dir.resolve(), settings)


def settings_of(arguments: RayArguments) -> Settings:
    """The server's settings with what a replica needs otherwise than a server that has a machine to itself.

    They are read here, with the environment of here, and carried to the replicas, whose nodes may have another.
    """
    given = Settings.load(arguments.config, **arguments.settings)
    threads = max(1, round(arguments.cpus_per_replica))
    fitting: dict[str, Any] = {
        "fronts": 0,  # Ray's proxies stand in front
        "decode_threads": given.decode_threads or threads,
        "tile_threads": given.tile_threads or (0 if arguments.gpus_per_replica else threads),
    }
    if "access_log" not in given.model_fields_set:
        fitting["access_log"] = False  # Ray's proxies and replicas write a line per request each
    return given.model_copy(update=fitting)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves on Ray until told to stop; returns the exit code."""
    given = {name: value for name, value in vars(_parser().parse_args(argv)).items() if value is not None}
    address = given.pop("address", None) or os.environ.get("RAY_ADDRESS")
    given["settings"] = dict(given.pop("set", ()))
    try:
        arguments = RayArguments(**given)
        settings = settings_of(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))} is {first['input']!r}: " if first["loc"] else ""
        return _fail(where + first["msg"].removeprefix("Value error, "))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, SettingsError) as error:
        return _fail(f"the configuration cannot be read: {error}")
    if settings.tls_client_ca is not None:
        return _fail("Ray's proxies ask no client for a certificate; leave tls_client_ca out, or put a proxy in front")
    try:
        if not address and not model_names(arguments.models_dir):
            return _fail(f"{arguments.models_dir} holds no model; make one with `make demo-models`")
        _serve(arguments, settings, address)
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed; run: pip install 'skipvit[ray,serve]'")
    except (ArtifactError, ConnectionError, RuntimeError) as error:
        return _fail(str(error))
    return 0


def _serve(arguments: RayArguments, settings: Settings, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    import ray
    from ray import serve as ray_serve

    stop = threading.Event()
    ray.init(address or "local", include_dashboard=False)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray_serve.start(http_options=_http_options(settings))
        ray_serve.run(build(arguments), name=_APPLICATION)
        print(
            f"skipvit on Ray: ready, open {url_of(settings.host, settings.port, tls=bool(settings.tls_cert))}",
            flush=True,
        )
        stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ray_serve.delete(_APPLICATION)  # with what it has in hand; a shutdown would cut that off
        if not address:
            ray_serve.shutdown()
        ray.shutdown()


def _http_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"host": settings.host, "port": settings.port}
    if settings.tls_cert is not None:
        options["ssl_certfile"] = str(settings.tls_cert)
        options["ssl_keyfile"] = str(settings.tls_key or settings.tls_cert)
    return options


def _fail(message: str) -> int:
    print(f"serve.ray_app: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serve.ray_app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models_dir", type=Path, metavar="MODELS_DIR", help="model repository: NAME/VERSION/model.onnx")
    add("--address", help="of a Ray cluster, such as auto or ray://HOST:10001; without it one is started here")
    for name, field in RayArguments.model_fields.items():
        if name not in ("models_dir", "settings"):
            what = " ".join((field.description or "").split())
            # Values stay text here: RayArguments checks them, wherever they came from, and names the one at fault.
            add(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=f"{what} Default: {field.default}.")
    add("--set", type=_setting, action="append", metavar="NAME=VALUE",
        help="a setting of the server, such as host=0.0.0.0, port=8080 or max_batch=8; SKIPVIT_MAX_BATCH=8 does the "
        "same; may be given again")  # fmt: skip
    return parser


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or name not in Settings.model_fields:
        raise argparse.ArgumentTypeError(f"needs NAME=VALUE with a setting of the server, got {text!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
