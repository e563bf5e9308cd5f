"""What a caller reads whose body names no instance: a 4xx in the shape of the API, whatever the bytes are.

Never a 5xx of gomodel's, never a request to an instance, and the connection serves the next one (contract section 3).
What is JSON only by some reading is not gomodel's to judge: it goes to the instance untouched.
"""

import json
import random
import re

import pytest

from ..harness.scripted import request
from ..harness.verdicts import CHAT, OK, access_lines, post, turned

ANTHROPIC = "/v1/messages"
DEEP = 100_000
MODEL = b'"model":"vllm/m"'

# Refused whether there is one instance or several.
NOT_JSON = {
    "text": b"hello",
    "a form": b"model=vllm%2Fm&x=1",
    "white space": b" \r\n\t",
    "one brace": b"{",
    "no colon": b'{"model" "vllm/m"}',
    "no closing quote": b'{"model":"vllm/m}',
    "no closing brace": b'{"a":1',
    "a name without quotes": b'{model:"vllm/m"}',
    "single quotes": b"{'model':'vllm/m'}",
    "two commas": b'{"a":1,,"model":"vllm/m"}',
    "a comma first": b'{,"model":"vllm/m"}',
    "UTF-16 with a mark": '{"model":"vllm/m"}'.encode("utf-16"),
    "UTF-16": '{"model":"vllm/m"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"vllm/m"}'.encode("utf-32"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56",
    "NUL": bytes(100),
    "random bytes": random.Random(1).randbytes(10_000),
    "trailing data without a model": b'{"a":1} x',
    "an array": b'[{"model":"vllm/m"}]',
    "a string": b'"vllm/m"',
    "a number": b"1",
    "null": b"null",
    "NaN": b"NaN",
    "a bare surrogate in the model": rb'{"model":"vllm/\ud800"}',
    "a raw control in the model": b'{"model":"vllm/\n"}',
    "a broken escape in the model": rb'{"model":"vllm/\x"}',
    "invalid UTF-8 in the model": b'{"model":"vllm/\xff"}',
    "unclosed and nested deep": b'{"a":' + b"[" * DEEP,
    "nested deep outside an object": b"[" * DEEP + b"]" * DEEP,
    "a number of a million digits": b"1" * 1_000_000,
}
# As far as the second one is there before the body goes on to the instance.
TWO_MODELS = {
    "the same": b'{"model":"vllm/m","model":"vllm/m"}',
    "one escaped": rb'{"model":"vllm/m","mo\u0064el":"vllm-b/m"}',
    "much between": b'{"model":"vllm/m","a":"' + b"x" * 5000 + b'","model":"vllm-b/m"}',
}
NO_MODEL = {
    "null": b'{"model":null}',
    "a number": b'{"model":1}',
    "a boolean": b'{"model":true}',
    "an array": b'{"model":["vllm/m"]}',
    "an object": b'{"model":{"id":"vllm/m"}}',
    "empty": b'{"model":""}',
    "an instance and nothing": b'{"model":"vllm/"}',
}
# Forwarded untouched to a single instance, refused where one would have to be chosen.
MISSING = {
    "nothing at all": b"",
    "an empty object": b"{}",
    "nested": b'{"a":{"model":"vllm/m"}}',
    "inside a string": rb'{"a":"\"model\":\"vllm/m\""}',
    "another case": b'{"Model":"vllm/m"}',
}
# The instance may judge these.
PASSED = {
    "a byte order mark": b"\xef\xbb\xbf{" + MODEL + b"}",
    "NaN": b'{"a":NaN,"b":-Infinity,' + MODEL + b"}",
    "a number of a million digits": b'{"a":' + b"1" * 1_000_000 + b"," + MODEL + b"}",
    "nested deep": b'{"a":' + b'[{"a":' * DEEP + b"1" + b"}]" * DEEP + b"," + MODEL + b"}",
    "a bare surrogate elsewhere": rb'{"a":"\ud800",' + MODEL + b"}",
    "trailing data": b"{" + MODEL + b"} x",
    "broken behind the model": b"{" + MODEL + b",,,",
    "invalid UTF-8 elsewhere": b'{"a":"\xff",' + MODEL + b"}",
}


def framed(target: str, body: bytes, framing: str) -> list[bytes]:
    """The request as the segments it is sent in."""
    if framing == "chunked":
        return [request("POST", target, body=[body[i : i + 99_991] for i in range(0, len(body), 99_991)])]
    whole = request("POST", target, [("Content-Type", "application/json")], body)
    if framing == "whole":
        return [whole]
    at = len(whole) - len(body)
    size = max(1, len(body) // 50)
    return [whole[:at], *(whole[i : i + size] for i in range(at, len(whole), size))]


@pytest.fixture
async def two(gateway, make_upstream):
    """A gateway with two instances, and these."""
    upstreams = [await make_upstream(), await make_upstream()]
    return await gateway(vllm=upstreams[0], vllm_b=upstreams[1], VLLM_MODELS="m", VLLM_B_MODELS="m"), upstreams


async def refused(client, target: str, pieces: list[bytes], status: int, code: str, param: str | None) -> str:
    await client.send_pieces(pieces)
    answer = await client.read_response()
    assert (answer.status, answer.complete, answer.get("Content-Type")) == (status, True, "application/json")
    assert answer.get("X-Request-Id")
    document = answer.json()
    error = document.pop("error")
    message: str = error.pop("message")
    if target.startswith(ANTHROPIC):
        kind = {400: "invalid_request_error", 404: "not_found_error"}[status]
        assert (document, error) == ({"type": "error"}, {"type": kind})
    else:
        assert (document, error) == ({}, {"type": "invalid_request_error", "param": param, "code": code})
    return message


@pytest.mark.parametrize("framing", ["whole", "pieces", "chunked"])
@pytest.mark.parametrize(
    ("vectors", "code", "param"),
    [(NOT_JSON, "invalid_body", None), (NO_MODEL, "model_required", "model"), (MISSING, "model_required", "model")],
)
async def test_a_body_that_names_no_model_is_a_400(two, connect, vectors, code, param, framing):
    handle, upstreams = two
    for target in (CHAT, ANTHROPIC):
        client = await connect(handle)
        for name, body in vectors.items():
            assert await refused(client, target, framed(target, body, framing), 400, code, param), name
            if client.responses[-1].end == "fin":
                client = await connect(handle)
    assert [each.requests for each in upstreams] == [[], []]
    upstreams[0].on_request(OK)
    client = await connect(handle)
    await client.send(post())
    assert (await client.read_response()).status == 200


@pytest.mark.parametrize("framing", ["whole", "chunked"])
async def test_a_second_model_is_a_400_since_servers_disagree_on_which_counts(two, connect, framing):
    handle, upstreams = two
    for target in (CHAT, ANTHROPIC):
        for body in TWO_MODELS.values():
            client = await connect(handle)
            assert "second" in await refused(client, target, framed(target, body, framing), 400, "invalid_body", None)
    assert [each.requests for each in upstreams] == [[], []]


@pytest.mark.parametrize("framing", ["whole", "pieces", "chunked"])
@pytest.mark.parametrize("body", PASSED.values(), ids=PASSED)
async def test_what_the_instance_may_judge_reaches_it_without_the_prefix_alone(two, connect, body, framing):
    handle, upstreams = two
    upstreams[0].on_request(OK)
    client = await connect(handle)
    await client.send_pieces(framed(CHAT, body, framing))
    assert (await client.read_response()).body == b'{"id":"ok"}'
    (seen,) = upstreams[0].requests
    assert seen.body == body.replace(b'"vllm/m"', b'"m"')
    assert upstreams[1].requests == []


@pytest.mark.parametrize("framing", ["whole", "pieces", "chunked"])
async def test_a_single_instance_gets_bodies_without_a_model_untouched(gateway, upstream, connect, framing):
    handle = await gateway(vllm=upstream)
    for body in MISSING.values():
        upstream.on_request(OK)
        client = await connect(handle)
        await client.send_pieces(framed(CHAT, body, framing))
        assert (await client.read_response()).status == 200
        assert upstream.requests.pop().body == body
    for name, body in {**NOT_JSON, **NO_MODEL}.items():
        client = await connect(handle)
        await client.send_pieces(framed(CHAT, body, framing))
        assert (await client.read_response()).status == 400, name
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("selector", "near"),
    [("vllm-c/m", True), ("vlm/m", True), ("mm", True), ("nothing-like-it", False), ("\x00", False)],
)
async def test_an_unknown_model_is_a_404_that_names_near_ones(two, connect, selector, near):
    handle, upstreams = two
    body = json.dumps({"model": selector}).encode()
    for target in (CHAT, ANTHROPIC):
        client = await connect(handle)
        message = await refused(client, target, framed(target, body, "whole"), 404, "model_not_found", "model")
        assert bool(re.search(r"Did you mean '([\w-]+/)?m'", message)) == near
        assert "127.0.0.1" not in message
    assert [each.requests for each in upstreams] == [[], []]
    assert [line["model"] for line in access_lines(handle)] == [selector, selector]


async def test_a_long_selector_is_a_404_of_bounded_length_and_one_of_a_megabyte_no_selector(two, connect):
    handle, _ = two
    client = await connect(handle)
    body = json.dumps({"model": "x" * 8192}).encode()
    message = await refused(client, CHAT, framed(CHAT, body, "whole"), 404, "model_not_found", "model")
    assert len(message) < 1000
    for length in (8193, 1_000_000):
        for framing in ("whole", "pieces", "chunked"):
            client = await connect(handle)
            body = json.dumps({"model": "x" * length}).encode()
            message = await refused(client, CHAT, framed(CHAT, body, framing), 400, "invalid_body", None)
            assert message == "`model` is longer than 8192 bytes."
    assert len(handle.logs.text) < 20_000


async def test_a_body_of_many_tiny_chunks_arrives_as_it_is(gateway, upstream, connect):
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    body = b"{" + MODEL + b',"a":"' + b"x" * 30_000 + b'"}'
    await client.send(request("POST", CHAT, body=[body[i : i + 1] for i in range(len(body))]))
    assert (await client.read_response()).status == 200
    await turned(lambda: upstream.requests[0].complete)
    assert upstream.requests[0].body == body.replace(b"vllm/m", b"m")
