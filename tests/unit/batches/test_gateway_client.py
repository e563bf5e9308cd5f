"""What the batcher takes an answer of its gateway for: an answer, busy, away, or nothing that came back."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gomodel.batches.gateway_client import Answer, GatewayClient, Outcome
from gomodel.batches.records import Work
from gomodel.host import private_sockets

WORK = Work("batch_1", "müller", "in_progress", "/v1/x", "file-1", 0, None, None, 1, 0, 0, None, b"\0", [], 1)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """A gateway of which only the answers are there."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer: Handler

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    found = Gateway()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, private_sockets.bind(str(tmp_path / "s"))).start()
    yield found
    await runner.cleanup()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[GatewayClient]:
    found = GatewayClient(str(tmp_path / "s"), "/gw", 7)
    yield found
    await found.close()


def says(status: int, body: bytes = b"{}", **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return answer


def error(code: Any) -> bytes:
    return json.dumps({"error": {"code": code}}).encode()


async def test_a_line_goes_as_it_stands_and_says_whose_it_is(gateway: Gateway, client: GatewayClient) -> None:
    gateway.answer = says(200, b'{ "a" :1}', X_GoModel_Provider="vllm")
    body = b'{ "model":"x",\t"n" : 1 }'
    assert await client.ask(WORK, "batch_1-1", body) == Answer(Outcome.ANSWERED, 200, b'{ "a" :1}', "vllm")
    (request,) = gateway.asked
    assert (request.method, request.path, gateway.bodies) == ("POST", "/gw/v1/x", [body])
    wanted = {"X-Request-Id": "batch_1-1", "X-Vllm-Priority": "7", "X-Gomodel-Batch": "batch_1"}
    wanted |= {"X-Gomodel-Owner": "m%C3%BCller", "Content-Type": "application/json"}
    assert {name: request.headers.get(name) for name in wanted} == wanted
    assert not {"Accept", "Accept-Encoding", "User-Agent"} & set(request.headers)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (says(200), Outcome.ANSWERED),
        (says(404, error("model_not_found")), Outcome.ANSWERED),
        (says(500), Outcome.ANSWERED),
        (says(302, Location="/elsewhere"), Outcome.ANSWERED),
        (says(429, error("rate_limit_exceeded")), Outcome.BUSY),
        (says(503, error("circuit_open")), Outcome.BUSY),
        (says(503, b"busy"), Outcome.BUSY),
        (says(503, error("aborted_by_operator"), X_Should_Retry="false"), Outcome.ANSWERED),
        (says(502, error("connection_refused")), Outcome.AWAY),
        (says(502, error("dns_error")), Outcome.AWAY),
        (says(502, error("tls_certificate_error")), Outcome.AWAY),
        (says(502, error("instance_key_refused")), Outcome.AWAY),
        (says(504, error("connection_timeout")), Outcome.AWAY),
        (says(502, error("connection_terminated")), Outcome.NOTHING),
        (says(504, error("http_response_timeout")), Outcome.NOTHING),
        (says(502, b"<html>"), Outcome.NOTHING),
        (says(502, error(["x"])), Outcome.NOTHING),
        (says(502, b"[]"), Outcome.NOTHING),
    ],
    ids=[str(number) for number in range(18)],
)
async def test_an_answer_is_taken_for_what_it_is(
    gateway: Gateway, client: GatewayClient, answer: Handler, outcome: Outcome
) -> None:
    gateway.answer = answer
    assert (await client.ask(WORK, "r", b"{}")).outcome is outcome
    assert len(gateway.asked) == 1


async def test_a_connection_that_breaks_brought_nothing(gateway: Gateway, client: GatewayClient) -> None:
    async def leave(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    gateway.answer = leave
    assert await client.ask(WORK, "r", b"{}") == Answer(Outcome.NOTHING)


async def test_a_gateway_that_is_not_there_is_away(client: GatewayClient) -> None:
    assert await client.ask(WORK, "r", b"{}") == Answer(Outcome.AWAY)
    assert await client.knows("m", None) is None


@pytest.mark.parametrize(("status", "known"), [(200, True), (404, False), (503, None), (401, None)])
async def test_a_model_is_looked_up(gateway: Gateway, client: GatewayClient, status: int, known: bool | None) -> None:
    gateway.answer = says(status)
    assert await client.knows("vllm/org/a b?c", "alice") is known
    (request,) = gateway.asked
    assert request.raw_path == "/gw/v1/models/vllm/org/a%20b%3Fc"
    assert request.headers["X-Gomodel-Owner"] == "alice"
