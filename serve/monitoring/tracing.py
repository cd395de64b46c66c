"""OpenTelemetry: a span for each request, under the caller's by W3C traceparent, with a child for each of its stages.

Off unless --tracing is on, or the environment names a collector as OpenTelemetry's own variables do; off costs nothing.
The SDK reads its other variables itself: sampling, headers, batches, the service's name and attributes.

Stages report how long they took, not when: children are laid end to end in the order in which stages are known, queue
and infer inside denoise where there is one. Of a stage that many pictures or tiles of a request went through side by
side, the child is the longest, with their number and sum as attributes.
"""

import logging
import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from starlette.types import Scope

import skipvit
from serve.monitoring.logs import TRACE_ID
from serve.web.asgi import header

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

_COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_INNER = frozenset({"queue", "infer"})  # parts of denoise, where a request has that stage
_MAX_PATH = 256


class TracingUnavailable(RuntimeError):
    """Tracing was asked for, and its packages are not here."""


class RequestTrace:
    """The span of one request while it is answered, and what its stages took."""

    def __init__(self, tracing: "Tracing", span: "Span", started_ns: int) -> None:
        self._tracing = tracing
        self._span = span
        self._started_ns = started_ns
        self._stages: dict[str, list[float]] = {}
        self._tokens = (_current.set(self), TRACE_ID.set(f"{span.get_span_context().trace_id:032x}"))

    def stage(self, stage: str, seconds: float) -> None:
        """Notes one picture's, tile's or request's time in a stage."""
        self._stages.setdefault(stage, []).append(seconds)

    def end(self, route: str, status: int, notes: Mapping[str, Any]) -> None:
        """Ends the span with the outcome of the request; ``notes`` are those of the access log."""
        from opentelemetry.trace import StatusCode

        _current.reset(self._tokens[0])
        TRACE_ID.reset(self._tokens[1])
        ended_ns = time.time_ns()
        span = self._span
        if span.is_recording():
            self._add_stages(ended_ns)
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            for name, value in notes.items():
                if isinstance(value, str | int | float):
                    span.set_attribute(f"skipvit.{name}", value)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)
        span.end(ended_ns)

    def _add_stages(self, ended_ns: int) -> None:
        next_ns = denoise_ns = self._started_ns
        for stage, times in self._stages.items():
            inner = stage in _INNER and "denoise" in self._stages
            begin_ns = min(denoise_ns if inner else next_ns, ended_ns)
            end_ns = min(begin_ns + round(max(times) * 1e9), ended_ns)
            if stage == "denoise":
                denoise_ns = begin_ns
            if inner:
                denoise_ns = end_ns
            else:
                next_ns = end_ns
            attributes = {"skipvit.count": len(times), "skipvit.sum_s": sum(times)}
            self._tracing.child(self._span, stage, begin_ns, attributes).end(end_ns)


_current: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)


def note_stage(stage: str, seconds: float) -> None:
    """Adds a stage to the trace of the request that this is called for, if there is one."""
    trace = _current.get()
    if trace is not None and stage != "total":
        trace.stage(stage, seconds)


class Tracing:
    """Begins the spans of requests, and sends them when they have ended."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("skipvit", skipvit.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, scope: Scope) -> RequestTrace:
        """The trace of a request, as a part of the caller's if it names one."""
        from opentelemetry.trace import SpanKind

        carrier = {name: header(scope, name.encode()) for name in ("traceparent", "tracestate")}
        started_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{scope['method']} {scope['path'][:_MAX_PATH]}",
            context=self._propagator.extract({name: value for name, value in carrier.items() if value}),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": scope["method"],
                "url.path": scope["path"][:_MAX_PATH],
                "url.scheme": scope.get("scheme", "http"),
            },
            start_time=started_ns,
        )
        return RequestTrace(self, span, started_ns)

    def child(self, parent: "Span", name: str, begin_ns: int, attributes: Mapping[str, Any]) -> "Span":
        """A span below ``parent``."""
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(
            name, context=set_span_in_context(parent), attributes=attributes, start_time=begin_ns
        )

    def close(self) -> None:
        """Sends what has not been sent; blocks for some seconds at most."""
        self._provider.shutdown()


def open_tracing(mode: Literal["auto", "on", "off"]) -> Tracing | None:
    """Tracing as the setting and OpenTelemetry's variables want it, or None.

    Raises:
        TracingUnavailable: it must be on, and its packages are not here.
    """
    named = any(os.environ.get(name) for name in _COLLECTORS)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if mode == "off" or disabled or (mode == "auto" and not named):
        return None
    try:
        check_packages()
    except TracingUnavailable as error:
        if mode == "on":
            raise
        logger.warning("no traces, though the environment names a collector: %s", error)
        return None
    return Tracing(_provider())


def check_packages() -> None:
    """Raises TracingUnavailable if a package that traces need is not here."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise TracingUnavailable(
            f"tracing needs OpenTelemetry's packages ({error}); run: pip install 'skipvit[otel]', or start the server "
            "with --tracing off"
        ) from None


def _provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": "skipvit"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
