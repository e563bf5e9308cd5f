"""One gateway's life: what a reload swaps and what it keeps, how a drain treats each client, what `close` leaves."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import Config
from gomodel.host.listeners import ListenError
from gomodel.process import gateway as gateway_module

from ..harness.gateway import DEFAULTS
from ..harness.leaks import nothing_left
from ..harness.scripted import (
    LAST_CHUNK,
    SAFETY_S,
    SSE_HEAD,
    GatewayHandle,
    RawClient,
    ScriptedUpstream,
    Stall,
    chunked,
    env_for,
    json_response,
    let_peers_run,
    request,
    response,
)
from ..harness.verdicts import access_lines

CHAT = b'{"model": "m", "stream": true}'
HEALTH = request("GET", "/health")


def chat(body: bytes = CHAT) -> bytes:
    return request("POST", "/v1/chat/completions", [("Content-Type", "application/json")], body)


def configured(**environ: str) -> Config:
    return from_environ({**DEFAULTS, **environ})


def stream(upstream: ScriptedUpstream) -> None:
    """The next request gets one event, and the rest once the upstream is released."""
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), chunked(b"data: 2\n\n") + LAST_CHUNK)


async def streaming(connect: Any, handle: GatewayHandle, upstream: ScriptedUpstream) -> RawClient:
    """A client in the middle of a stream."""
    stream(upstream)
    client: RawClient = await connect(handle)
    await client.send(chat())
    await client.read_head("POST")
    await client.read_chunk()
    return client


async def drained(handle: GatewayHandle, timeout_s: float = 5.0) -> int:
    left: int = await handle.gateway.drain(timeout_s)
    return left


async def test_a_stream_ends_whole_during_a_drain_and_its_connection_with_it(
    gateway: Any, upstream: ScriptedUpstream, connect: Any
) -> None:
    handle = await gateway(vllm=upstream)
    client = await streaming(connect, handle, upstream)
    drain = asyncio.create_task(drained(handle))
    while not handle.gateway.app.draining:
        await let_peers_run()
    upstream.release()
    answer = await client.read_rest()
    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    assert await drain == 0
    assert await client.closed == "fin"


async def test_what_still_runs_at_the_drain_limit_is_counted_and_never_ends_cleanly(
    gateway: Any, upstream: ScriptedUpstream, connect: Any
) -> None:
    handle = await gateway(vllm=upstream)
    clients = [await streaming(connect, handle, upstream) for _ in range(2)]
    assert await drained(handle, 0.05) == 2
    await handle.gateway.close()
    for client in clients:
        answer = await client.read_rest()
        assert (answer.body[:16], answer.complete) == (b"data: 1\n\ndata: {", False)


@pytest.mark.parametrize("first", [b"", HEALTH], ids=["silent since it came", "idle after an answer"])
async def test_a_client_idle_for_long_is_closed_at_once(
    gateway: Any, upstream: ScriptedUpstream, connect: Any, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "GRACE_S", 0.0)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    if first:
        await client.send(first)
        await client.read_response()
    await let_peers_run()
    assert await drained(handle) == 0
    assert await client.closed == "fin"


@pytest.mark.parametrize("first", [b"", HEALTH], ids=["before its first request", "between two requests"])
async def test_a_client_that_was_just_active_gets_its_next_answer_during_a_drain(
    gateway: Any, upstream: ScriptedUpstream, connect: Any, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "GRACE_S", 60.0)
    upstream.on_request(response(b"late"))
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    if first:
        await client.send(first)
        await client.read_response()
    drain = asyncio.create_task(drained(handle))
    while not handle.gateway.app.draining:
        await let_peers_run()
    await client.send(chat())
    answer = await client.read_response("POST")
    assert (answer.status, answer.body) == (200, b"late")
    assert ("Connection", "close") in answer.headers
    assert await drain == 0


async def test_a_request_that_comes_late_in_a_drain_is_told_to_come_back(
    gateway: Any, upstream: ScriptedUpstream, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "GRACE_S", 0.0)
    handle = await gateway(vllm=upstream)
    client = await streaming(connect, handle, upstream)
    drain = asyncio.create_task(drained(handle))
    while not handle.gateway.app.refusing:
        await let_peers_run()
    await client.send(chat())
    upstream.release()
    assert (await client.read_rest()).complete
    late = await client.read_response("POST")
    assert (late.status, late.json()["error"]["code"]) == (503, "draining")
    assert "Retry-After" in dict(late.headers)
    assert await drain == 0


async def test_no_client_is_taken_once_the_drain_has_begun(
    gateway: Any, upstream: ScriptedUpstream, connect: Any
) -> None:
    handle = await gateway(vllm=upstream)
    client = await streaming(connect, handle, upstream)
    drain = asyncio.create_task(drained(handle))
    for _ in range(10):
        await let_peers_run()
    with pytest.raises(ConnectionRefusedError):
        await connect(handle)
    upstream.release()
    await client.read_rest()
    assert await drain == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_clients_the_kernel_had_accepted_before_the_drain_are_served(
    gateway: Any, upstream: ScriptedUpstream, kind: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    handle = await gateway(vllm=upstream, **({"GOMODEL_UNIX_SOCKET": path, "PORT": ""} if kind == "unix" else {}))
    # No turn of the loop between these: the gateway has seen none of the clients when the drain begins.
    clients = [socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) for _ in range(300)]
    for sock in clients:
        sock.settimeout(SAFETY_S)
        sock.connect(path if kind == "unix" else ("127.0.0.1", handle.port))
        sock.sendall(HEALTH)
    assert await drained(handle) == 0
    assert [sock.recv(1000)[:12] for sock in clients] == [b"HTTP/1.1 200"] * 300
    for sock in clients:
        sock.close()


async def test_an_address_that_is_taken_leaves_nothing_behind(gateway: Any, upstream: ScriptedUpstream) -> None:
    handle = await gateway(vllm=upstream)
    with pytest.raises(ListenError, match="another process listens there"):
        await gateway(vllm=upstream, PORT=str(handle.port))


async def test_a_unix_socket_is_served_and_its_file_removed(
    gateway: Any, upstream: ScriptedUpstream, connect: Any, tmp_path: Path
) -> None:
    path = tmp_path / "g.sock"
    handle = await gateway(vllm=upstream, GOMODEL_UNIX_SOCKET=str(path), PORT="0")
    for client in (await connect(path=str(path)), await connect(handle)):
        await client.send(HEALTH)
        assert (await client.read_response()).status == 200
    assert path.exists()
    await drained(handle)
    assert not path.exists()


async def test_an_ipv4_client_of_an_ipv6_listener_is_logged_by_its_ipv4_address(
    gateway: Any, upstream: ScriptedUpstream, connect: Any
) -> None:
    handle = await gateway(vllm=upstream, HOST="::")
    client = await connect(handle)
    await client.send(HEALTH)
    assert (await client.read_response()).status == 200
    assert access_lines(handle)[0]["client"] == "127.0.0.1"


async def test_a_reload_serves_new_requests_by_the_new_table_on_the_same_connection(
    gateway: Any, make_upstream: Any, connect: Any
) -> None:
    old, new = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=old)
    client = await connect(handle)
    for upstream in (old, new):
        upstream.on_request(response(b"answer"))
        handle.gateway.reload(configured(**env_for(vllm=upstream)))
        await client.send(chat())
        assert (await client.read_response("POST")).status == 200
    assert (len(old.requests), len(new.requests)) == (1, 1)


async def test_a_stream_that_runs_at_a_reload_ends_by_the_old_table_which_is_closed_after_it(
    gateway: Any, make_upstream: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "_RETIRE_POLL_S", 0.01)
    old, new = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=old)
    client = await streaming(connect, handle, old)
    before = handle.gateway.app
    handle.gateway.reload(configured(**env_for(vllm=new)))
    assert handle.gateway.app is not before
    (replica,) = before.providers.instances["vllm"].replicas
    assert not replica.pool.closed
    old.release()
    assert (await client.read_rest()).complete
    await nothing_left(lambda: [] if replica.pool.closed else ["the old pool"])
    await nothing_left(lambda: [str(each) for each in old.open_connections])


async def test_an_unchanged_instance_keeps_its_connections_models_and_breaker_over_reloads(
    gateway: Any, make_upstream: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "_RETIRE_POLL_S", 0.01)
    kept, gone, new = (
        await make_upstream(models=("mine",)),
        await make_upstream(models=("other",)),
        await make_upstream(),
    )
    handle = await gateway(vllm=kept, vllm_test=gone)
    client = await connect(handle)
    kept.repeat(json_response({}))
    running = await streaming(connect, handle, gone)
    before = handle.replica()
    for table in ({"vllm": kept, "vllm_new": new}, {"vllm": kept}):
        await client.send(chat(b'{"model": "mine"}'))
        assert (await client.read_response("POST")).status == 200
        handle.gateway.reload(configured(**env_for(**table)))
    assert handle.replica() is before
    await client.send(chat(b'{"model": "mine"}'))
    assert (await client.read_response("POST")).status == 200
    assert len({id(each.connection) for each in kept.requests}) == 1
    gone.release()
    assert (await running.read_rest()).complete
    await nothing_left(lambda: [str(each) for each in [*gone.open_connections, *new.open_connections]])
    assert not before.pool.closed


async def test_a_dead_instance_keeps_its_last_good_list_over_a_reload(
    gateway: Any, make_upstream: Any, connect: Any
) -> None:
    upstream = await make_upstream(models=("known",))
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(request("GET", "/v1/models"))
    before = (await client.read_response()).json()
    upstream.stop_listening()
    handle.gateway.reload(configured(**env_for(vllm=upstream), BODY_SIZE_LIMIT="1M"))
    await client.send(request("GET", "/v1/models"))
    assert (await client.read_response()).json() == before
    assert [each["id"] for each in before["data"]] == ["vllm/known"]


async def test_the_key_and_the_limits_follow_a_reload(gateway: Any, upstream: ScriptedUpstream, connect: Any) -> None:
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(HEALTH)
    assert (await client.read_response()).status == 200
    changed = {"GOMODEL_MASTER_KEY": "new", "HTTP_RESPONSE_HEADER_TIMEOUT": "50ms", "HTTP_WRITE_IDLE_TIMEOUT": "7s"}
    handle.gateway.reload(configured(**env_for(vllm=upstream), **changed))
    await client.send(chat())
    assert (await client.read_response("POST")).status == 401
    client = await connect(handle)
    upstream.on_request(Stall())
    await client.send(request("POST", "/v1/chat/completions", [("Authorization", "Bearer new")], CHAT))
    answer = await client.read_response("POST")
    assert (answer.status, answer.json()["error"]["code"]) == (504, "http_response_timeout")
    assert {each.write_idle_s for each in handle.gateway._server.clients} == {7.0}


async def test_closing_in_the_middle_of_a_reload_leaves_nothing(gateway: Any, make_upstream: Any, connect: Any) -> None:
    upstreams = [await make_upstream() for _ in range(3)]
    handle = await gateway(vllm=upstreams[0])
    clients = []
    for upstream in upstreams:
        handle.gateway.reload(configured(**env_for(vllm=upstream)))
        clients.append(await streaming(connect, handle, upstream))
    await handle.gateway.close()
    for client in clients:
        assert not (await client.read_rest()).complete
    await nothing_left(handle.remains)
