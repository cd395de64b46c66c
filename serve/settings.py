"""Every knob of the server: one class, from arguments, the environment (``SKIPVIT_MAX_BATCH=8``) or a TOML file.

The file is ``SKIPVIT_CONFIG`` or ``--config``. It has the settings by their names, and a table for each model or
group that needs its own: ``[models.NAME]``, ``[groups.NAME]``. Arguments win over the environment, and that over the
file.
"""

import os
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from serve.models.settings import GroupSettings, ModelSettings

# The sources of pydantic-settings are chosen per class, without a way to pass them the file.
_config_file: ContextVar[str | None] = ContextVar("config_file", default=None)
_ORIGIN = re.compile(r"https?://[^\s/?#@,*]+")
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def _as_browsers_write(origin: str) -> str:
    scheme, _, host = origin.lower().partition("://")
    return origin.lower().removesuffix({"http": ":80", "https": ":443"}.get(scheme, ":")) if host else origin


def available_cpus() -> int:
    """CPUs this process may use: its affinity mask, cut down to the container's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_CPU.read_text().split()
        return max(1, min(cpus, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or its quota is "max"
        return cpus


class Settings(BaseSettings):
    """Limits and sizes of one server process. A request over a limit gets an error that names the setting."""

    model_config = SettingsConfigDict(
        env_prefix="SKIPVIT_", frozen=True, use_attribute_docstrings=True, extra="forbid", allow_inf_nan=False
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 to be reachable from other machines."""
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port; 0 takes a free one."""
    fronts: int = Field(default=0, ge=0, le=64)
    """Processes that take requests, decode and encode, beside one that runs the models; 0 does all in one process.
    Worth it where decoding keeps more cores busy than one process can use. Linux only."""

    max_body_bytes: int = Field(default=64 << 20, ge=1)
    """Largest request body; a noisy photograph of 24 megapixels is a PNG of some 60 MB."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Largest width x height of a picture, checked before any pixel is decoded."""
    max_frames: int = Field(default=1, ge=1)
    """Most frames of an animation or pages of a TIFF; the first one is classified."""
    max_files: int = Field(default=16, ge=1)
    """Most pictures in one request."""
    max_in_flight: int = Field(default=128, ge=1)
    """Pictures admitted at a time by each route; more are answered with 429 and a Retry-After."""
    target_ms: float = Field(default=0.0, ge=0)
    """Longest that the answer to a classification is expected to take: what would wait longer, as measured while the
    server was busy, is answered with 429 at once. Two for each decode thread are admitted in any case, which keep the
    cores busy. 0 admits max_in_flight, however long they wait."""
    max_buffered_bytes: int = Field(default=256 << 20, ge=1)
    """Request bodies held in memory at a time, all requests together."""
    max_pixels_in_flight: int = Field(default=0, ge=0)
    """Pixels of pictures being denoised at a time; more are answered with 429 and a Retry-After. Each takes about 4
    bytes, and 4 more while it is decoded or encoded. 0 takes half as many again as max_pixels."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """Longest a client may take to send its body."""
    request_timeout_s: float = Field(default=0.0, ge=0)
    """Longest from a request's first byte to the first of its answer, after which it is answered with 504 and its work
    is dropped. X-Request-Timeout may ask for less. 0 leaves it to that header."""
    send_timeout_s: float = Field(default=60.0, gt=0)
    """Longest a client may take to receive 1 MiB of a picture or clip, which is held in memory meanwhile."""
    keep_alive_s: int = Field(default=75, ge=1)
    """Longest that a connection is kept open for a client's next request. A load balancer in front must give its own
    up sooner, as most do after 60 s, or it sends requests on connections that are just being closed."""
    max_idle_connections: int = Field(default=0, ge=0)
    """Connections kept open on which nothing is being answered; of more, those idle longest are closed. 0 takes half
    of the files that the process may open, and 2048 at most."""

    engine: Literal["auto", "onnx-cpu", "onnx-cuda", "tensorrt", "tensorrt-rtx"] = "auto"
    """What runs the models: onnx-cpu, onnx-cuda, tensorrt or tensorrt-rtx. auto takes for each model the fastest of
    these that is here and verified, and says why; any other that cannot be had ends the server at once."""
    engine_memory: Literal["auto", "cuda-core", "pycuda"] = "auto"
    """Who allocates and copies for TensorRT's engines; auto is cuda-core where it is installed."""
    max_batch: int = Field(default=0, ge=0, le=1024)
    """Most pictures in one run of the model; 0 takes 16 on a CPU and 64 on a GPU."""
    batch_budget_ms: float = Field(default=0.0, ge=0)
    """A batch grows only while one run of it takes no longer than this, as measured at warm-up: on a CPU a slow
    model gains nothing from batching, so its pictures would only wait for each other. 0 takes 8 on a CPU and 25 on a
    GPU, which needs large batches to be busy."""
    max_wait_ms: float = Field(default=1.0, ge=0)
    """Longest a decoded picture waits for others that are still decoding; never longer than one run of the model."""
    decode_threads: int = Field(default=0, ge=0, le=256)
    """Threads that decode pictures; 0 takes one per CPU."""
    engine_threads: int = Field(default=0, ge=0, le=256)
    """Threads of each classifier's own; 0 runs it in the decode threads, which on a CPU is fastest, and takes 2 on a
    GPU: while one batch computes, the other is copied."""
    tile_threads: int = Field(default=0, ge=0, le=256)
    """Threads of each denoiser's own; 0 takes one per CPU, or 2 where it runs on a GPU."""
    max_tiles_in_flight: int = Field(default=0, ge=0)
    """Tiles of one picture that wait or run at a time; 0 takes half as many again as a denoiser has threads, or as
    its GPU runs in three batches."""

    max_videos: int = Field(default=2, ge=1, le=64)
    """Clips being denoised at a time; more are answered with 429 and a Retry-After."""
    max_video_frames: int = Field(default=600, ge=1)
    """Most frames of a clip, counted while it is decoded."""
    max_video_frame_pixels: int = Field(default=9_000_000, ge=1)
    """Largest width x height of a clip; a window of its frames is held in memory."""
    max_video_pixels: int = Field(default=300_000_000, ge=1)
    """Most pixels of all frames of a clip together, counted while it is decoded."""
    max_video_answer_bytes: int = Field(default=128 << 20, ge=1)
    """Largest denoised clip, which is held in memory until it is complete."""
    max_video_decoder_bytes: int = Field(default=1 << 30, ge=512 << 20)
    """Memory, as addresses, of the process that decodes a clip; its libraries alone take a quarter of 1 GiB."""
    video_decode_s: float = Field(default=60.0, ge=1)
    """Computing time of the process that decodes a clip."""

    api_keys: Path | None = None
    """File of API keys, a line each, made by --new-key; read again when it changes. Without it everybody may ask."""
    open_metrics: bool = False
    """Whether /metrics may be read without a key where other routes need one."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins, such as https://example.org, whose pages may use this server from a browser, separated by commas; *
    for all."""
    tls_cert: Path | None = None
    """PEM file of a certificate and its chain; with it the server speaks HTTPS. Read again when it is renewed."""
    tls_key: Path | None = None
    """PEM file of the certificate's key, without a password; if it is not in tls_cert."""
    tls_client_ca: Path | None = None
    """PEM file of CAs; clients must show a certificate of one of them."""
    hsts_s: int = Field(default=86400, ge=0)
    """With TLS, how long browsers are told to come to this host by HTTPS only; 0 does not tell them."""

    lame_duck_s: float = Field(default=0.0, ge=0)
    """After SIGTERM, how long to go on accepting requests with /readyz at 503, so that balancers look away first."""
    drain_s: float = Field(default=30.0, ge=0)
    """After that, how long requests in flight may take to finish."""

    watch_s: float = Field(default=0.0, ge=0)
    """How often to look into the model repository for versions that came, changed or went, in seconds; 0 never does.
    A change is acted on when two looks in a row have seen it."""
    model_control: Literal["none", "explicit"] = "none"
    """Whether clients may load and unload models by the Open Inference Protocol: explicit or none."""

    scheduling: Literal["batch", "system"] = "batch"
    """batch has the system give threads long slices of its cores, on Linux, which answers more requests a second;
    system leaves it as the server was started."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """JSON lines for machines, text for people; auto is text on a terminal."""
    access_log: bool = True
    """Whether to log every request."""

    tracing: Literal["auto", "on", "off"] = "auto"
    """Whether to send OpenTelemetry traces, which needs the extra otel; auto does where the environment names a
    collector, as OTEL_EXPORTER_OTLP_ENDPOINT does."""

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    """Settings of single models by name."""
    groups: dict[str, GroupSettings] = Field(default_factory=dict)
    """Groups of models by name, under which one of their variants answers."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Adds the TOML file below everything else."""
        file = _config_file.get() or os.environ.get("SKIPVIT_CONFIG")
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(file))) if file else sources

    @classmethod
    def load(cls, config: Path | None = None, **given: Any) -> Self:
        """Settings as given, filled up from the environment and then from ``config``.

        Raises:
            OSError: the file cannot be read.
            tomllib.TOMLDecodeError: it is no TOML.
            ValidationError: a value makes no sense, or the file has a name that is no setting.
        """
        file = config or os.environ.get("SKIPVIT_CONFIG")
        if file is not None:
            Path(file).read_bytes()  # a file that is not there would be passed over
        token = _config_file.set(str(config) if config else None)
        try:
            return cls(**given)
        finally:
            _config_file.reset(token)

    def of(self, name: str) -> ModelSettings:
        """What is set for the model called ``name``."""
        return self.models.get(name) or ModelSettings()

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, port: object) -> object:
        # Kubernetes and Docker set SKIPVIT_PORT=tcp://address:port in containers beside a service called skipvit.
        return 8000 if isinstance(port, str) and port.startswith(("tcp://", "udp://")) else port

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, origins: object) -> object:
        if isinstance(origins, str):
            origins = tuple(origin.strip() for origin in origins.split(",") if origin.strip())
        if isinstance(origins, tuple | list):
            for origin in origins:
                if origin != "*" and not _ORIGIN.fullmatch(str(origin)):
                    raise ValueError(f"{origin!r} is no origin; write scheme://host or scheme://host:port, or *")
            return tuple(map(_as_browsers_write, origins))
        return origins

    @model_validator(mode="after")
    def _tls_has_a_certificate(self) -> Self:
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            raise ValueError("tls_key and tls_client_ca need tls_cert; give the certificate's file too")
        return self

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Self:
        if self.max_files > self.max_in_flight:
            raise ValueError(
                f"max_files {self.max_files} is over max_in_flight {self.max_in_flight}: such a request could never "
                "be admitted; raise max_in_flight or lower max_files"
            )
        if 0 < self.max_pixels_in_flight < self.max_pixels:
            raise ValueError(
                f"max_pixels {self.max_pixels} is over max_pixels_in_flight {self.max_pixels_in_flight}: such a "
                "picture could never be admitted; raise max_pixels_in_flight or lower max_pixels"
            )
        return self

    @property
    def decoders(self) -> int:
        """Decode threads, resolved."""
        return self.decode_threads or available_cpus()

    @property
    def pixels_in_flight(self) -> int:
        """Pixels being denoised at a time, resolved."""
        return self.max_pixels_in_flight or self.max_pixels * 3 // 2
