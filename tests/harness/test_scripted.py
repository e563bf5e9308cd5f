"""Scripts run as written, transcripts are exact, and what a test leaves behind is named."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from ..conftest import LOOP
from .leaks import nothing_left
from .scripted import (
    SSE_HEAD,
    Dribble,
    Fin,
    GatewayHandle,
    HarnessTimeout,
    Inventory,
    RawClient,
    ReadRequest,
    Records,
    Repeat,
    ScriptedUpstream,
    Stall,
    chunked,
    env_for,
    head,
    json_response,
    let_peers_run,
    request,
    response,
)

GET = request("GET", "/x")
OK = response(b"ok")


async def test_a_pipelined_transcript_is_exact_in_bytes_order_and_case(upstream, connect):
    first = request("POST", "/a?x=1;y=%2F", [("X-b", "1"), ("x-A", " two "), ("X-b", "3")], body=b"\x00\r\n\r\nGET")
    second = request("PUT", "//b", [("Z", "\xfc")], body=[b"ab", b"c"])
    upstream.repeat(OK)
    client = await connect(upstream)
    await client.send(first + second)
    for _ in range(2):
        assert (await client.read_response()).complete
    one, two = upstream.requests
    assert (one.raw, two.raw) == (first, second)
    assert (one.method, one.target, one.body) == ("POST", "/a?x=1;y=%2F", b"\x00\r\n\r\nGET")
    assert one.headers[1:] == [("X-b", "1"), ("x-A", "two"), ("X-b", "3"), ("Content-Length", "8")]
    assert one.get_all("x-B") == ["1", "3"]
    assert one.get("content-length") == "8"
    assert one.head + one.body == first
    assert (two.target, two.chunks, two.get("z"), two.complete) == ("//b", [b"ab", b"c"], "\xfc", True)
    assert upstream.problems == []


async def test_scripts_go_to_requests_in_order_and_by_path_and_probes_are_kept_apart(upstream, connect):
    upstream.on_request(response(b"by path"), path="/b")
    upstream.on_request(response(b"first"))
    upstream.on_request(response(b"second"))
    upstream.repeat(response(b"rest"))
    client = await connect(upstream)
    bodies = []
    for target in ("/a", "/v1/models", "/b?q", "/c", "/d", "/health", "/e"):
        await client.send(request("GET", target))
        bodies.append((await client.read_response()).body)
    assert [bodies[0], *bodies[2:]] == [b"first", b"by path", b"second", b"rest", b"", b"rest"]
    assert b'"id": "m"' in bodies[1]
    assert [each.target for each in upstream.requests] == ["/a", "/b?q", "/c", "/d", "/e"]
    assert [each.target for each in upstream.probes] == ["/v1/models", "/health"]
    assert len(upstream.connections) == 1


async def test_a_probe_path_that_a_script_names_is_an_ordinary_request(upstream, connect):
    upstream.on_request(json_response({"error": 1}, 500), path="/v1/models")
    client = await connect(upstream)
    for status in (500, 200):
        await client.send(request("GET", "/v1/models"))
        assert (await client.read_response()).status == status
    assert (len(upstream.requests), len(upstream.probes)) == (1, 1)


async def test_repeat_and_dribble_send_all_and_end_with_the_client(upstream, connect):
    upstream.on_request(SSE_HEAD, Repeat(3, (chunked(b"ab"),)), Dribble(chunked(b"cd"), 2, 0.001), Dribble(b"5", 1, 60))
    client = await connect(upstream)
    await client.send(GET)
    await client.read_head()
    assert [await client.read_chunk() for _ in range(4)] == [b"ab", b"ab", b"ab", b"cd"]
    client.reset()
    await upstream.connections[0].over
    assert upstream.connections[0].closed.value == "reset"
    assert upstream.connections[0].cut


async def test_a_stopped_listener_refuses_a_jammed_one_hangs_and_both_recover(upstream, connect):
    upstream.repeat(OK)
    before = await connect(upstream)
    upstream.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        await connect(upstream)
    await before.send(GET)
    assert (await before.read_response()).complete
    upstream.listen()
    again = await connect(upstream)
    await again.send(GET)
    assert (await again.read_response()).complete
    await upstream.jam()
    with pytest.raises(HarnessTimeout):
        await connect(upstream, safety_s=0.05)
    assert len(upstream.connections) == 2


async def test_a_unix_socket_serves_the_same_scripts(make_upstream, connect, tmp_path):
    path = str(tmp_path / "s")
    upstream = await make_upstream(unix_path=path)
    upstream.on_request(OK, Fin())
    assert upstream.base_url == f"unix://{path}:/v1"
    client = await connect(path=path)
    await client.send(GET)
    answer = await client.read_response()
    assert (answer.body, answer.end) == (b"ok", "fin")
    client.fin()
    assert await upstream.connections[0].closed == "fin"


async def test_a_script_may_begin_with_a_read_and_go_on_over_several_requests(upstream, connect):
    upstream.on_request(ReadRequest(), response(b"1"), ReadRequest(), response(b"2"), Fin())
    client = await connect(upstream)
    answers = []
    for _ in range(2):
        await client.send(GET)
        answers.append(await client.read_response())
    assert [(answer.body, answer.end) for answer in answers] == [(b"1", "keepalive"), (b"2", "fin")]


async def test_what_h11_forgives_is_still_a_problem(upstream, connect):
    upstream.lenient = True
    upstream.on_request(head(200, [("Content-Length", "2")]).replace(b"\r\nC", b"\nC") + b"ok")
    client = await connect(upstream)
    await client.send(GET.replace(b"\r\nHost", b"\nHost"))
    answer = await client.read_response()
    assert (answer.body, answer.complete, answer.malformed) == (b"ok", True, None)
    assert client.problems == [r"start line b'HTTP/1.1 200 X\nContent-Length: 2'"]
    assert r"start line b'GET /x HTTP/1.1\nHost: gateway.test'" in upstream.problems


async def test_unscripted_malformed_and_failing_are_problems(upstream, connect):
    upstream.lenient = True

    async def fail(connection: object) -> None:
        raise RuntimeError("my script is wrong")

    upstream.on_request(fail, path="/fail")
    for raw in (GET, request("GET", "/fail"), b"GET / HTTP/1.1\r\n\r\n", request("GET", "/\x01")):
        client = await connect(upstream)
        await client.send(raw)
        await client.read_all_until_close()
    found = "\n".join(upstream.problems)
    for part in ("no script for GET /x", "my script is wrong", "Missing mandatory Host", "illegal request line"):
        assert part in found


async def test_leaked_tasks_and_sockets_are_named(upstream):
    inventory = Inventory()
    assert inventory.leaked() == []
    client = await RawClient.connect(upstream.port)
    await upstream.wait_for_connection()
    task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
    leaked = "\n".join(inventory.leaked())
    assert "forgotten" in leaked
    assert "2 more socket" in leaked
    task.cancel()
    client.wire.close()
    await nothing_left(inventory.leaked)


async def test_a_gateway_that_closed_without_its_sockets_and_tasks_is_noticed(upstream, logs: Records, connect):
    upstream.on_request(Stall())
    direct = await connect(upstream)
    await direct.send(GET)
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    (listening,) = listener.sockets
    instance = SimpleNamespace(servers=[SimpleNamespace(base_url=upstream.base_url, unix_socket=None)])
    handle = GatewayHandle(
        SimpleNamespace(port=listening.getsockname()[1]), SimpleNamespace(instances=[instance]), logs
    )
    _, to_upstream = await asyncio.open_connection("127.0.0.1", upstream.port)
    await upstream.wait_for_connection(2)
    assert len(handle.remains()) == 2
    to_upstream.close()
    await to_upstream.wait_closed()
    assert len(handle.remains()) == 1
    listener.close()
    await listener.wait_closed()
    await nothing_left(handle.remains)
    await upstream.connections[1].closed
    assert upstream.open_connections == [upstream.connections[0]]


async def test_error_records_and_lost_exceptions_are_noticed(logs: Records):
    logging.getLogger("gomodel.test").info("hello", extra={"request_id": "r-1"})
    logging.getLogger("gomodel.test").error("announced %s", "failure")
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await let_peers_run()
    unexpected = "\n".join(logs.unexpected)
    assert "announced failure" in unexpected
    assert "ZeroDivisionError" in unexpected
    assert "r-1" in logs.text
    logs.expected += ["announced", "ZeroDivisionError"]


async def test_instances_become_environment_variables(upstream: ScriptedUpstream):
    assert env_for(vllm=upstream, vllm_test="http://x/v1") == {
        "VLLM_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
        "VLLM_TEST_BASE_URL": "http://x/v1",
    }


async def test_the_loop_is_the_one_asked_for():
    assert type(asyncio.get_running_loop()).__module__.startswith(LOOP)
