"""What a client is told when no connection to an instance comes about, each cause under its own name."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest

from ..harness.descriptors import few_descriptors
from ..harness.scripted import SSE_HEAD, Fin, Reset, Stall, request
from ..harness.tls import KEY_AND_CERTIFICATE
from ..harness.verdicts import OK, aborted, access_lines, ask, counted, own_error, post, shows, tells_nothing, turned

Serve = Callable[[ssl.SSLContext], Awaitable[int]]


@pytest.fixture
async def serve_tls(no_leaks: object, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Starts a TLS server with a certificate that nobody trusts; returns its port."""
    servers: list[asyncio.Server] = []

    async def serve() -> int:
        pem = tmp_path / "pem"
        pem.write_text(KEY_AND_CERTIFICATE)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        servers.append(await asyncio.start_server(_refuse, "127.0.0.1", 0, ssl=context))
        return int(servers[0].sockets[0].getsockname()[1])

    yield serve
    for server in servers:
        server.close()
        await server.wait_closed()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_refused_connect_is_502_and_the_next_request_after_a_restart_is_served(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="0")
    client = await connect(handle)
    upstream.stop_listening()
    for _ in range(3):
        answer = await ask(client)
        own_error(answer, 502, "connection_refused")
        assert answer.end == "keepalive"
        tells_nothing(handle, answer, upstream)
    assert await aborted(handle, 3) == {("upstream", "connect"): 3}
    upstream.listen()
    assert (await ask(client)).status == 200
    connects = handle.gateway.telemetry.connects
    assert (connects["vllm", "connection_refused"], connects["vllm", "ok"]) == (3, 1)


async def test_a_request_whose_connect_hangs_goes_to_the_other_replica(gateway, make_upstream, connect):
    hanging, other = await make_upstream(), await make_upstream()
    await hanging.jam()
    other.on_request(SSE_HEAD, Stall())
    other.on_request(OK)
    handle = await gateway(
        {"VLLM_BASE_URL": f"{hanging.base_url},{other.base_url}"}, HTTP_CONNECT_TIMEOUT="150ms", ROUTING="least"
    )
    busy = await connect(handle)
    await busy.send(post())
    assert (await busy.read_head()).status == 200
    assert (await ask(await connect(handle))).status == 200  # now if not before it is the hanging one's turn
    assert handle.gateway.telemetry.retries == {"vllm": 1}


async def test_the_connect_of_a_client_that_leaves_is_given_up(gateway, upstream, connect):
    await upstream.jam()
    handle = await gateway(vllm=upstream, HTTP_CONNECT_TIMEOUT="60s")
    clients = [await connect(handle) for _ in range(20)]
    for client in clients:
        await client.send(post())
    (replica,) = handle.gateway.app.providers.replicas
    await turned(lambda: len(replica.pool._dials) == 20)
    for client in clients:
        client.reset()
    await turned(lambda: not replica.pool._dials and not replica.pool._waiting)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
async def test_one_address_is_connected_to_and_of_several_the_first_that_answers(
    gateway, upstream, connect, monkeypatch, names, addresses
):
    raced = []
    start = aiohappyeyeballs.start_connection

    async def race(addr_infos, **options):
        raced.append(sorted(each[4][0] for each in addr_infos))
        return await start(addr_infos, **options)

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", race)
    upstream.repeat(OK)
    names.answer("gpu.test", *addresses)
    handle = await gateway({"VLLM_BASE_URL": f"http://gpu.test:{upstream.port}/v1"})
    assert (await ask(await connect(handle))).status == 200
    assert raced == ([] if len(addresses) == 1 else [addresses] * len(raced))
    assert bool(raced) is (len(addresses) > 1)


async def test_a_connect_that_hangs_is_504_and_not_tried_again(gateway, upstream, connect):
    await upstream.jam()
    handle = await gateway(vllm=upstream, HTTP_CONNECT_TIMEOUT="150ms")
    answer = await ask(await connect(handle))
    own_error(answer, 504, "connection_timeout")
    assert answer.end == "keepalive"
    tells_nothing(handle, answer, upstream)
    assert await aborted(handle) == {("upstream", "connect"): 1}
    assert access_lines(handle)[0].get("retries") is None


@pytest.mark.parametrize("how", [Fin(), Reset()])
async def test_a_connection_that_is_accepted_and_dropped_is_502(gateway, upstream, connect, how):
    for _ in range(100):
        upstream.on_accept(how)
    handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="100")
    client = await connect(handle)
    for _ in range(20):
        answer = await ask(client)
        own_error(answer, 502, "connection_terminated")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (socket.EAI_NONAME, 502, "dns_error"),
        (socket.EAI_AGAIN, 502, "dns_error"),
        (None, 504, "connection_timeout"),
    ],
    ids=["unknown", "temporary", "silent"],
)
async def test_a_name_that_does_not_resolve_is_an_error_in_time(gateway, connect, names, error, status, code):
    if error is None:
        names.silence("vllm.test")
    else:
        names.fail("vllm.test", error)
    handle = await gateway(vllm="http://vllm.test:8000/v1", HTTP_CONNECT_TIMEOUT="100ms", RETRY_MAX_RETRIES="1")
    answer = await ask(await connect(handle))
    own_error(answer, status, code)
    assert "vllm.test" not in answer.raw.decode()
    tells_nothing(handle, answer)
    assert await aborted(handle) == {("upstream", "connect"): 1}


async def test_a_client_that_leaves_during_a_look_up_is_not_waited_for(gateway, upstream, connect, names):
    names.silence("far.test")
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, vllm_far="http://far.test/v1")
    waiting, client = await connect(handle), await connect(handle)
    await waiting.send(post(model="vllm-far/m"))
    assert (await ask(client)).status == 200
    waiting.fin()
    assert await aborted(handle, 2) == {("client", "connect"): 1}


async def test_an_untrusted_certificate_is_502(gateway, serve_tls, connect):
    port = await serve_tls()
    handle = await gateway(vllm=f"https://127.0.0.1:{port}/v1", RETRY_MAX_RETRIES="0")
    answer = await ask(await connect(handle))
    own_error(answer, 502, "tls_certificate_error")
    assert not shows(answer.raw.decode(), port)
    tells_nothing(handle, answer)


async def test_tls_to_a_plain_port_is_502(gateway, upstream, connect):
    upstream.lenient = True
    for _ in range(3):
        upstream.on_accept(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", Fin())
    handle = await gateway(vllm=upstream.base_url.replace("http:", "https:"), RETRY_MAX_RETRIES="0")
    answer = await ask(await connect(handle))
    own_error(answer, 502, "tls_protocol_error")
    tells_nothing(handle, answer, upstream)


async def test_plain_http_to_a_tls_port_is_502(gateway, serve_tls, connect):
    port = await serve_tls()
    handle = await gateway(vllm=f"http://127.0.0.1:{port}/v1")
    handle.expect_error("SSL")
    answer = await ask(await connect(handle))
    assert answer.status == 502
    assert answer.json()["error"]["code"] in ("http_protocol_error", "connection_terminated")
    tells_nothing(handle, answer)


async def test_a_tls_handshake_that_stalls_counts_as_connecting(gateway, upstream, connect):
    upstream.lenient = True
    for _ in range(3):
        upstream.on_accept(Stalled())
    handle = await gateway(vllm=upstream.base_url.replace("http:", "https:"), HTTP_CONNECT_TIMEOUT="150ms")
    answer = await ask(await connect(handle))
    own_error(answer, 504, "connection_timeout")
    for connection in upstream.connections:
        await connection.closed


class Stalled:
    """A script step that reads nothing and says nothing until the peer leaves."""

    async def __call__(self, connection: Any) -> None:
        await connection.until(asyncio.Event().wait())


async def test_a_unix_socket_nobody_listens_on_is_502(gateway, connect, tmp_path):
    handle = await gateway(vllm=f"unix://{tmp_path}/gone:/v1", RETRY_MAX_RETRIES="0")
    answer = await ask(await connect(handle))
    own_error(answer, 502, "connection_refused")
    assert str(tmp_path) not in answer.raw.decode()
    tells_nothing(handle, answer)


async def test_without_a_free_descriptor_it_is_503_for_now_and_nobodys_failure(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    client = await connect(handle)
    assert (await ask(client, request("GET", "/health"))).status == 200
    with few_descriptors():
        answer = await ask(client)
    own_error(answer, 503, "connection_limit", "overloaded_error")
    assert answer.get("Retry-After") == "1"
    tells_nothing(handle, answer, upstream)
    # The breaker did not count it, so the instance is there as soon as a descriptor is.
    assert (await ask(client)).status == 200
    assert await counted(handle, 3) == {200: 2, 503: 1}


async def test_the_model_list_needs_one_living_instance(gateway, make_upstream, connect):
    alive, dead = await make_upstream(models=("a", "b")), await make_upstream()
    dead.stop_listening()
    handle = await gateway(vllm=alive, vllm_dead=dead, vllm_gone=dead.base_url.replace("/v1", "/gone/v1"))
    answer = await ask(await connect(handle), request("GET", "/v1/models"))
    assert (answer.status, [each["id"] for each in answer.json()["data"]]) == (200, ["vllm/a", "vllm/b"])
    alone = await gateway(vllm=dead)
    answer = await ask(await connect(alone), request("GET", "/v1/models"))
    assert answer.status == 503
    assert answer.get("Retry-After")
    tells_nothing(alone, answer, dead)
