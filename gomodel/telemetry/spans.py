"""OpenTelemetry: one span for each request, by the conventions for HTTP servers and for generative AI.

Decides what a span says, and that nobody waits for a collector: spans leave in batches on a thread of the SDK's, over
OTLP/HTTP; what a collector does not take is lost and counted, and said once. Imported only where spans are wanted
(extra `otel`), and begun in the process that serves. What is not set here the SDK reads from the environment itself
(`OTEL_BSP_*`, `OTEL_RESOURCE_ATTRIBUTES`, certificates).
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from time import time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers

from ..config.settings import Traces
from ..version import VERSION
from .access_line import shown
from .record import PHASE_WORDS, Record

# What has not left when the gateway ends is waited for so long.
FLUSH_S = 3.0
# The same where the collector took nothing the last time: one that is back needs no longer.
AGAIN_S = 0.25
_PATH = "/v1/traces"
_SERVER_ERROR = 500

# By route: what the conventions call what is asked for.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}

_logger = logging.getLogger("gomodel")

Finish = Callable[..., None]


class Spans:
    """Makes spans of records and exports them, from its making to `close`."""

    def __init__(self, traces: Traces) -> None:
        quiet = logging.getLogger("opentelemetry")  # says of each batch what is said here once
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        headers = None if traces.headers is None else parse_env_headers(traces.headers.reveal(), liberal=True)
        self._exporter = _Counted(OTLPSpanExporter(traces.endpoint.rstrip("/") + _PATH, headers=headers))
        resource = Resource.create({SERVICE_NAME: traces.service, SERVICE_VERSION: VERSION})
        self._provider = TracerProvider(_sampler(traces), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("gomodel", VERSION)
        self._parent = TraceContextTextMapPropagator()
        self.made = 0  # those that were sampled

    @property
    def counts(self) -> dict[str, int]:
        """How many were made, and what became of them; what is neither exported nor failed waits, or was too much."""
        return {"made": self.made, "exported": self._exporter.exported, "failed": self._exporter.failed}

    def after(self, finish: Finish) -> Finish:
        """`Telemetry.finish`, and then a span of what ended, unless that is asked for again and again."""

        def finished(record: Record, label_model: str, now: float, polled: bool = False, metered: bool = False) -> None:
            finish(record, label_model, now, polled, metered)
            if not polled:
                self.add(record, now)

        return finished

    def add(self, record: Record, now: float) -> None:
        """The span of a request that has ended."""
        end = time_ns()
        operation = _OPERATIONS.get(record.route, "")
        # One lone surrogate, as JSON's escapes can name, would cost all spans of a batch.
        model = shown(record.model).encode("utf-8", "replace").decode()
        span = self._tracer.start_span(
            f"{operation} {model}".rstrip() if operation else f"{record.method} {record.route}",
            self._parent.extract({"traceparent": record.trace} if record.trace else {}, Context()),
            SpanKind.SERVER,
            start_time=end - int((now - record.started) * 1e9),
        )
        if span.is_recording():
            self.made += 1
            span.set_attributes(_attributes(record, operation, model, now))
            if record.ended_by in ("upstream", "gomodel") or record.status >= _SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    async def close(self) -> None:
        """Export what is left, as far as that takes no longer than FLUSH_S, or AGAIN_S where the last export failed."""
        limit_s = AGAIN_S if self._exporter.failing else FLUSH_S
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(over.set)
            except RuntimeError:
                pass  # nobody waits any more

        threading.Thread(target=flush, daemon=True, name="otel flush").start()
        try:
            async with asyncio.timeout(limit_s):
                await over.wait()
        except TimeoutError:
            _logger.warning("Spans of the last requests were not taken within %gs and are lost", limit_s)


def _sampler(traces: Traces) -> Sampler:
    kind = traces.sampler.removeprefix("parentbased_")
    root = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}.get(kind) or TraceIdRatioBased(traces.ratio)
    return root if kind == traces.sampler else ParentBased(root)


def _attributes(record: Record, operation: str, model: str, now: float) -> dict[str, Any]:
    """What is known of it, by the names of the conventions where they have one, else by those of the access line."""
    engine_s = now - record.started - record.gateway_s - record.client_s
    found: dict[str, Any] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "client.address": record.client,
        "gomodel.request_id": record.id,
        "gomodel.engine_ms": round(max(0.0, engine_s) * 1000, 1),
        "gomodel.gateway_ms": round(record.gateway_s * 1000, 1),
        "gomodel.client_ms": round(record.client_s * 1000, 1),
    }
    if record.instance:
        found |= {"gen_ai.provider.name": "vllm", "gomodel.instance": record.instance}
    if operation:
        found["gen_ai.operation.name"] = operation
    if model:
        found["gen_ai.request.model"] = model
    if record.first_byte:
        found["gen_ai.request.stream"] = record.streamed
        found["gen_ai.response.time_to_first_chunk"] = record.first_byte - record.started
    usage = record.usage
    if usage is not None:
        found |= {"gen_ai.usage.input_tokens": usage.prompt, "gen_ai.usage.output_tokens": usage.completion}
        if usage.cached is not None:
            found["gen_ai.usage.cache_read.input_tokens"] = usage.cached
    if record.caller is not None:
        found["gomodel.key"] = record.caller.name
    if record.replica:
        found["gomodel.replica"] = record.replica
    if record.retries:
        found["gomodel.retries"] = record.retries
    if record.queued_s:
        found["gomodel.queue_ms"] = round(record.queued_s * 1000, 1)
    if record.ended_by:
        found |= {"gomodel.ended_by": record.ended_by, "gomodel.phase": PHASE_WORDS[record.phase]}
    if record.reason or record.status >= _SERVER_ERROR:
        found["error.type"] = record.reason or str(record.status)
    return found


class _Counted(SpanExporter):
    """An exporter, and what became of what it was given; an outage is said once, and its end."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.failing = False  # the last time
        self.exported = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed:
            self.failed += len(spans)
        else:
            self.exported += len(spans)
        if failed is not self.failing:
            self.failing = failed
            if failed:
                _logger.warning("The collector of spans (OTEL_EXPORTER_OTLP_ENDPOINT) does not take them")
            else:
                _logger.info("The collector of spans takes them again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)
