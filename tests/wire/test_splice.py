"""Of a request's body only the instance's name is missing upstream: every other byte, and the framing, are as sent."""

import asyncio
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..harness.gateway import env_for, start_gateway
from ..harness.leaks import Records
from ..harness.scripted import RawClient, ReadHead, ScriptedUpstream, Stall, WaitFor, chunked, head, request, response
from ..harness.verdicts import CHAT, OK, ask, turned

JSON = [("Content-Type", "application/json")]
NAME = "vllm-b"

# A body, with the bytes that are cut marked by « and ».
SPLICED = [
    '{"model":"«vllm-b/»m"}',
    '{"model":"«vllm-b/»org/m","messages":[]}',
    '{"messages":[{"role":"user","content":"hi"}],"model":"«vllm-b/»m"}',
    '{"a":1,"model":"«vllm-b/»m","b":2}',
    ' \r\n\t{ \n"model"\t:\r\n "«vllm-b/»m" \n } \r\n',
    '{"mod\\u0065l":"«vllm-b/»m"}',
    '{"\\u006d\\u006f\\u0064\\u0065\\u006C":"«vllm-b/»m"}',
    '{"model":"«vllm-b\\/»m"}',
    '{"model":"«vllm-b\\u002f»m\\/n"}',
    '{"model":"«\\u0076llm\\u002Db/»m"}',
    '{"model":"«vllm-b/»\\u006d\\"\\\\ \\ud83d\\ude00 é 模型"}',
    '{"model":"«vllm-b/»vllm-b/m"}',
    '{"x":{"model":"vllm/no"},"y":[{"model":"vllm/no"}],"model":"«vllm-b/»m","z":{"model":"vllm/no"}}',
    '{"x":"\\"model\\":\\"vllm/no\\"","model":"«vllm-b/»m"}',
    '{"x":"}{][\\\\","model":"«vllm-b/»m"}',
    '{"Model":"vllm/no","models":"vllm/no"," model":"vllm/no","model":"«vllm-b/»m"}',
    '{"é\u2028\U0001f600":"é\u2028\U0001f600","model":"«vllm-b/»m","big":1e999,"float":1.10}',
    '{"n":-0.0e+5,"t":true,"f":false,"z":null,"e":{},"l":[],"model":"«vllm-b/»m"}',
    '{"a":"x","a":"y","model":"«vllm-b/»m","a":"z"}',
    '\ufeff{"model":"«vllm-b/»m"}',
    '{"model":"«vllm-b/»m"} trailing rubbish that vLLM will refuse',
    '{"model":"«vllm-b/»m","messages":[',
    '{"deep":' + "[" * 50 + "]" * 50 + ',"model":"«vllm-b/»m"}',
]


def pair_of(marked):
    before, rest = marked.split("«")
    cut, after = rest.split("»")
    return (before + cut + after).encode(), (before + after).encode()


@pytest.fixture
async def bound(gateway, make_upstream):
    """A gateway with `vllm` and `vllm-b`, and the latter."""
    other = await make_upstream()
    return await gateway(vllm=await make_upstream(), vllm_b=other), other


@pytest.mark.parametrize("marked", SPLICED)
async def test_only_the_name_is_cut_whatever_stands_around_it_and_however_it_arrives(bound, connect, marked):
    handle, other = bound
    sent, expected = pair_of(marked)
    other.repeat(OK)
    raw = request("POST", CHAT, JSON, sent)
    client = await connect(handle)
    await client.send(raw)
    assert (await client.read_response()).status == 200
    await client.send_byte_by_byte(raw)
    assert (await client.read_response()).status == 200
    body = raw.index(b"\r\n\r\n") + 4
    for at in (0, 1, len(sent) // 3, len(sent) // 2, len(sent) - 1):
        await client.send_pieces([raw[: body + at], raw[body + at :]])
        assert (await client.read_response()).status == 200
    assert [each.body for each in other.requests] == [expected] * 7
    assert {each.get("Content-Length") for each in other.requests} == {str(len(expected))}
    assert {each.get("Transfer-Encoding") for each in other.requests} == {None}


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("marked", SPLICED)
async def test_a_chunked_body_stays_chunked(bound, connect, marked, size):
    handle, other = bound
    sent, expected = pair_of(marked)
    other.repeat(OK)
    raw = request("POST", CHAT, JSON, [sent[at : at + size] for at in range(0, len(sent), size)])
    assert (await ask(await connect(handle), raw)).status == 200
    await (client := await connect(handle)).send_split_at_crlf(raw)
    assert (await client.read_response()).status == 200
    assert [each.body for each in other.requests] == [expected] * 2
    assert {each.get("Transfer-Encoding") for each in other.requests} == {"chunked"}
    assert {each.get("Content-Length") for each in other.requests} == {None}


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_megabytes_before_or_behind_the_model_arrive_whole(bound, connect, where, framing):
    handle, other = bound
    other.repeat(OK)
    filling = '"x":"' + "abc é " * 500_000 + '"'
    members = ['"model":"«vllm-b/»m"', filling]
    marked = "{" + ",".join(members if where == "first" else members[::-1]) + "}"
    sent, expected = pair_of(marked)
    pieces = [sent[at : at + 100_000] for at in range(0, len(sent), 100_000)]
    raw = request("POST", CHAT, JSON, sent if framing == "length" else pieces)
    assert (await ask(await connect(handle), raw)).status == 200
    assert other.requests[0].body == expected


async def test_the_head_goes_on_as_soon_as_the_selector_is_known(bound, connect):
    handle, other = bound
    seen = asyncio.Event()
    answer = head(200, [("Transfer-Encoding", "chunked")]) + chunked(b"early")
    other.on_request(ReadHead(), WaitFor(seen), answer, Stall())
    client = await connect(handle)
    body = b'{"model":"vllm-b/m","messages":"' + b"x" * 1000 + b'"}'
    raw = request("POST", CHAT, JSON, body)
    await client.send(raw[: raw.index(b'"messages') + 3])
    first = await other.wait_for_request()
    assert (first.get("Content-Length"), first.complete) == (str(len(body) - len("vllm-b/")), False)
    seen.set()
    await client.read_head()
    assert await client.read_chunk() == b"early"


async def test_what_follows_the_model_is_not_waited_for(bound, connect):
    handle, other = bound
    other.on_request(ReadHead(), Stall())
    client = await connect(handle)
    sent = b'{"model":"vllm-b/m","x":"' + b"y" * 500 + b'"}'
    raw = request("POST", CHAT, JSON, sent)
    start = raw.index(b',"x"')
    await client.send(raw[:start])
    seen = await other.wait_for_request()
    for at in range(start, len(raw) - 1, 50):
        await client.send(raw[at : at + 50])
    other.release()
    await turned(lambda: handle.gateway.telemetry.running.records)
    (record,) = handle.gateway.telemetry.running.records
    await turned(lambda: record.bytes_in == len(sent))
    assert seen.get("Content-Length") == str(len(sent) - len("vllm-b/"))


@pytest.mark.parametrize("length", ["+5", "5 5", "0x5", "-1", ""])
async def test_a_length_that_is_no_number_reaches_nobody(bound, connect, length):
    handle, other = bound
    answer = await ask(await connect(handle), request("POST", CHAT, [*JSON, ("Content-Length", length)]) + b"{}")
    assert (answer.status, other.connections) == (400, [])


@pytest.mark.parametrize("name", ["content-length", "CONTENT-LENGTH", "Content-Length"])
async def test_the_corrected_length_stands_where_it_stood_and_reads_as_it_read(bound, connect, name):
    handle, other = bound
    other.on_request(OK)
    raw = request("POST", CHAT, [("X-A", "1"), (name, "22"), ("X-B", "2")]) + b'{"model":"vllm-b/m"  }'
    assert (await ask(await connect(handle), raw)).status == 200
    fields = [pair for pair in other.requests[0].headers if pair[0].lower() in ("x-a", "content-length", "x-b")]
    assert fields == [("X-A", "1"), (name, "15"), ("X-B", "2")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, derandomize=True, database=None, deadline=None)
@given(
    before=st.dictionaries(st.text(max_size=5).filter(lambda name: name != "model"), VALUES, max_size=3),
    after=st.dictionaries(st.text(min_size=6, max_size=8), VALUES, max_size=3),
    model=st.text(min_size=1, max_size=20),
    spaces=st.sampled_from([None, 1, "\t"]),
    ascii_only=st.booleans(),
    cuts=st.lists(st.integers(1, 400), max_size=5),
)
def test_any_json_in_any_pieces_arrives_without_the_name(before, after, model, spaces, ascii_only, cuts):
    def written(selector):
        content = {**before, "model": selector, **{f"after-{name}": value for name, value in after.items()}}
        return json.dumps(content, indent=spaces, ensure_ascii=ascii_only).encode("utf-8", "replace")

    asyncio.run(_arrives(written(f"{NAME}/{model}"), written(model), sorted(set(cuts))))


async def _arrives(sent, expected, cuts):
    upstream = await ScriptedUpstream.start()
    upstream.on_request(response(b"ok"))
    handle = await start_gateway(env_for(vllm="http://127.0.0.1:9/v1", vllm_b=upstream), Records())
    client = await RawClient.connect(handle.port)
    raw = request("POST", CHAT, JSON, sent)
    start = len(raw) - len(sent)
    places = [0, start, *(start + cut for cut in cuts if cut < len(sent)), len(raw)]
    try:
        await client.send_pieces([raw[a:b] for a, b in itertools.pairwise(places)])
        answer = await client.read_response()
        assert (answer.status, answer.raw if answer.status != 200 else b"") == (200, b"")
        assert upstream.requests[0].body == expected
    finally:
        client.wire.close()
        await handle.gateway.close()
        await upstream.close()
