"""A head that comes again on a connection is treated as it was the first time, in every way that shows."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..harness.gateway import env_for, start_gateway
from ..harness.leaks import Records
from ..harness.scripted import Fin, RawClient, SendPieces, Stall, chunked, head, request, response
from ..harness.upstream import ScriptedUpstream
from ..harness.verdicts import CHAT, KEPT, OK, aborted, access_lines, ask, own_error, served
from ..process.test_server import configured

FIELDS = [
    ("Content-Type", "application/json"),
    ("X-A", "1"),
    ("x-a", "2"),
    ("Cookie", "a=b"),
    ("Authorization", "Bearer k"),
]


def chat(text="", fields=FIELDS, model="vllm/m"):
    return request("POST", CHAT, fields, body=b'{"model":"%b","x":"%b"}' % (model.encode(), text.encode()))


def known(handle):
    """Whether the only client's last head would be known again."""
    (client,) = handle.gateway._server.clients
    return client._known is not None and client._known.fields is not None


async def test_a_repeated_head_reaches_the_instance_as_it_did_the_first_time(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, VLLM_API_KEY="secret", GOMODEL_MASTER_KEY="k")
    client = await connect(handle)
    texts = ["", "x", "y" * 3000, "", "z"]
    for text in texts:
        assert (await ask(client, chat(text))).status == 200
        assert known(handle)
    bodies = [b'{"model":"m","x":"%b"}' % text.encode() for text in texts]
    assert [each.body for each in upstream.requests] == bodies
    assert [each.get("Content-Length") for each in upstream.requests] == [str(len(body)) for body in bodies]
    names = ("Content-Length", "X-Request-Id")
    (rest,) = {tuple(pair for pair in each.headers if pair[0] not in names) for each in upstream.requests}
    assert [pair for pair in rest if pair[0].lower() == "x-a"] == [("X-A", "1"), ("x-a", "2")]
    assert ("Authorization", "Bearer secret") in rest
    assert "Cookie" not in dict(rest)
    assert len({each.get("X-Request-Id") for each in upstream.requests}) == len(texts)


async def test_another_model_behind_a_repeated_head_is_another_instance(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    one.repeat(response(b"one"))
    other.repeat(response(b"other"))
    client = await connect(await gateway(vllm=one, vllm_b=other))
    for model, body in (("vllm/m", b"one"), ("vllm-b/m", b"other"), ("vllm/m", b"one"), ("vllm-b/m", b"other")):
        assert (await ask(client, chat(model=model))).body == body


async def test_a_head_that_differs_in_its_key_alone_wants_the_right_one(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k"))
    wrong = [*FIELDS[:-1], ("Authorization", "Bearer j")]
    for fields, status in ((FIELDS, 200), (FIELDS, 200), (wrong, 401), (wrong, 401), (FIELDS, 200)):
        assert (await ask(client, chat(fields=fields))).status == status


@pytest.mark.parametrize(
    ("change", "status"), [({"GOMODEL_MASTER_KEY": "other"}, 401), ({"STRIP_REQUEST_HEADERS": "X-A"}, 200)]
)
async def test_a_reload_judges_a_repeated_head_anew(gateway, upstream, connect, change, status):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k")
    client = await connect(handle)
    for _ in range(2):
        assert (await ask(client, chat())).status == 200
    handle.gateway.reload(configured(**{**env_for(vllm=upstream), "GOMODEL_MASTER_KEY": "k", **change}))
    for _ in range(2):
        assert (await ask(client, chat())).status == status
    assert [each.get("X-A") for each in upstream.requests[2:]] == ([] if status == 401 else [None, None])


# What comes after two requests with a known head -> the statuses of the answers, the bodies that reach the instance.
ONLY_ALIKE = {
    "a body longer than its length": ([chat("abc") + b"x"], [200, 400], [b"abc"]),
    "a second request behind it": ([chat("abc") + chat("def")], [200, 200], [b"abc", b"def"]),
    "a body in two pieces": ([chat("abc")[:-5], chat("abc")[-5:]], [200], [b"abc"]),
    "a head in two pieces": ([chat("abc")[:30], chat("abc")[30:]], [200], [b"abc"]),
    "two lengths": ([chat("abc").replace(b"Content-Length: ", b"Content-Length: 28\r\nContent-Length: ")], [400], []),
    "a length and chunks": ([chat("abc").replace(b"X-A: 1", b"Transfer-Encoding: chunked")], [400], []),
    "a negative length": ([chat("abc").replace(b"Content-Length: ", b"Content-Length: -")], [400], []),
}


@pytest.mark.parametrize(("pieces", "statuses", "texts"), ONLY_ALIKE.values(), ids=ONLY_ALIKE)
async def test_what_only_begins_like_a_repeated_head_is_parsed(gateway, upstream, connect, pieces, statuses, texts):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    for text in ("a", "b"):
        assert (await ask(client, chat(text))).status == 200
    await client.send_pieces(pieces)
    assert [(await client.read_response()).status for _ in statuses] == statuses
    assert [each.body for each in upstream.requests[2:]] == [b'{"model":"m","x":"%b"}' % text for text in texts]


async def test_heads_that_are_never_the_same_are_not_remembered_for_long(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    seen = []
    for number in range(12):
        assert (await ask(client, chat(fields=[*FIELDS, (f"X-{number}", "1")]))).status == 200
        seen.append(known(handle))
    assert (seen[0], seen[-1]) == (True, False)


async def test_heads_that_differ_in_values_alone_are_known_and_reach_the_instance_as_they_came(
    gateway, upstream, connect
):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 13)]
    for number, trace in enumerate(traces):
        fields = [*FIELDS, ("traceparent", trace), ("X-Request-Id", f"r-{number}"), ("X-N", str(number))]
        answer = await ask(client, chat("x" * number, fields))
        assert (answer.status, answer.get("X-Request-Id")) == (200, f"r-{number}")
        assert known(handle)
    for number, seen in enumerate(upstream.requests):
        assert (seen.get("traceparent"), seen.get("X-Request-Id")) == (traces[number], f"r-{number}")
        assert (seen.get("X-N"), seen.body) == (str(number), b'{"model":"m","x":"%b"}' % (b"x" * number))
    (client,) = handle.gateway._server.clients
    assert client._misses == 0
    lines = access_lines(handle)
    assert [(line["request_id"], line["traceparent"]) for line in lines] == [
        (f"r-{number}", trace) for number, trace in enumerate(traces)
    ]


async def test_a_key_that_differs_is_compared(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k"))
    for key, status in (("k", 200), ("l", 401), ("k", 200), ("m", 401), ("", 401), ("k", 200)):
        fields = [("Content-Type", "application/json"), ("X-Key", key), ("Authorization", f"Bearer {key}")]
        assert (await ask(client, chat(fields=fields))).status == status


LENGTH = ("content-length", "2")
ANSWERS = [
    response(b"one", 200, [("X", "1")]),
    response(b"three", 200, [("X", "1")]),
    response(b"", 200, [("X", "1")]),
    response(b"one", 404, [("X", "1")]),
    head(200, [("X", "1"), ("Transfer-Encoding", "chunked")]) + chunked(b"chunks") + b"0\r\n\r\n",
    head(204, [("X", "1")]),
    response(b"x" * 70_000, 200, [("X", "1")]),
]
EXPECTED = [b"one", b"three", b"", b"one", b"chunks", b"", b"x" * 70_000]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(ANSWERS) - 1), min_size=2, max_size=12))
def test_answers_with_equal_and_other_heads_in_any_order_are_told_apart(order):
    async def run():
        upstream = await ScriptedUpstream.start()
        for number in order:
            upstream.on_request(ANSWERS[number])
        records = Records()
        handle = await start_gateway({**env_for(vllm=upstream), **KEPT}, records)
        client = await RawClient.connect(handle.port)
        try:
            for number in order:
                answer = await ask(client, chat())
                assert (answer.status, answer.body) == (int(ANSWERS[number][9:12]), EXPECTED[number])
                assert (answer.get("X"), answer.complete, answer.problems) == ("1", True, [])
            assert len(served(upstream)) == 1
        finally:
            client.wire.close()
            await handle.gateway.close()
            await upstream.close()

    asyncio.run(run())


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_the_answer_to_head_has_no_body_although_its_head_is_known(gateway, upstream, connect, method):
    for _ in range(2):
        upstream.on_request(response(b"ok", 200))
    upstream.on_request(head(200, [("Content-Length", "2")]) if method == "HEAD" else response(b"ok", 200))
    upstream.on_request(response(b"ok", 200))
    client = await connect(await gateway(KEPT, vllm=upstream))
    for asked in ("GET", "GET", method, "GET"):
        answer = await ask(client, request(asked, "/p/vllm/x"), asked)
        assert (answer.status, answer.body) == (200, b"" if asked == "HEAD" else b"ok")
    assert len(served(upstream)) == 1


@pytest.mark.parametrize("end", [Fin(), Stall()])
async def test_a_known_answer_that_breaks_off_is_not_complete(gateway, upstream, connect, end):
    whole = response(b"0123456789", 200)
    upstream.on_request(whole)
    upstream.on_request(whole[:-3], end)
    handle = await gateway(KEPT, vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="200ms")
    client = await connect(handle)
    assert (await ask(client)).body == b"0123456789"
    answer = await ask(client)
    assert (answer.body, answer.complete, answer.end) == (b"0123456", False, "fin")
    assert await aborted(handle, 2) == {("upstream", "data"): 1}


async def test_bytes_behind_a_known_answer_end_its_connection(gateway, upstream, connect):
    whole = response(b"ok", 200)
    upstream.on_request(whole)
    upstream.on_request(whole + whole, Stall())
    upstream.on_request(whole)
    client = await connect(await gateway(KEPT, vllm=upstream))
    for _ in range(3):
        assert (await ask(client)).body == b"ok"
    assert served(upstream) == [2, 1]


async def test_a_known_head_in_two_pieces_is_read_as_ever(gateway, upstream, connect):
    whole = response(b"ok", 200)
    upstream.on_request(whole)
    for at in (1, 20, len(whole) - 2):
        upstream.on_request(SendPieces((whole[:at], whole[at:])))
        upstream.on_request(whole)
    client = await connect(await gateway(KEPT, vllm=upstream))
    for _ in range(7):
        assert (await ask(client)).body == b"ok"
    assert len(served(upstream)) == 1


async def test_an_unknown_model_behind_a_repeated_head_is_still_a_404(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    one.repeat(OK)
    client = await connect(await gateway(vllm=one, vllm_b=other))
    assert (await ask(client, chat())).status == 200
    answer = await ask(client, chat(model="nobody/m"))
    assert answer.status == 404
    assert (await ask(client, chat())).status == 200
    answer = await ask(client, request("POST", CHAT, FIELDS, body=b"[]"))
    assert own_error(answer, 400, "invalid_body", "invalid_request_error")
