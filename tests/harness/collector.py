"""An OpenTelemetry collector that takes spans over OTLP/HTTP and keeps what it got."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from .leaks import Inventory


class Collector:
    """What an OTLP receiver got."""

    def __init__(self) -> None:
        self.exports: list[Any] = []
        self.headers: list[Any] = []
        self.status = 200
        self.answers = asyncio.Event()
        self.answers.set()
        self.endpoint = ""

    async def take(self, request: web.Request) -> web.Response:
        # Here, since it takes longer to import than most tests take.
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        self.headers.append(request.headers)
        await self.answers.wait()
        if self.status == 200:
            self.exports.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(status=self.status)

    @property
    def spans(self) -> list[Any]:
        scopes = [scope for each in self.exports for resource in each.resource_spans for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(self.exports[0].resource_spans[0].resource)


def attributes(said: Any) -> dict[str, Any]:
    """What a span, or a resource, says by name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in said.attributes}


@pytest.fixture
async def collector(no_leaks: Inventory) -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()
