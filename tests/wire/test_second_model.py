"""Keys that are good for some models: no second `model` reaches an instance, however late in the body it comes."""

import json

import pytest

from ..harness.forms import form, part, post
from ..harness.keys import ALICE, BOB, MASTER, entry
from ..harness.scripted import LAST_CHUNK, chunked, json_response, request
from ..harness.verdicts import CHAT, OK, ask, own_error

PADDING = 400_000
# What stands between the two, and how much of it.
BODIES = {
    "at once": b"",
    "behind a little": b',"x":[{"model":"y"},"\\"model\\":"]',
    "behind much": b',"x":"' + b"a" * PADDING + b'"',
    "behind an escape": b',"x":"' + b'\\"' * 50_000 + b'"',
}
SECOND = {
    "plain": b',"model":"vllm/secret"}',
    "the allowed one": b',"model":"vllm/m"}',
    "escaped": rb',"mo\u0064el":"vllm/secret"}',
    "no string": b', "model" :1 }',
}
WAYS = pytest.mark.parametrize("framing", ["length", "chunked"])


@pytest.fixture
async def restricted(gateway, upstream, tmp_path):
    """A gateway where Alice's key is good for one model and Bob's for all."""
    path = tmp_path / "keys.toml"
    path.write_text(entry("alice", ALICE, models=["vllm/m"]) + entry("bob", BOB))
    upstream.repeat(OK)
    return await gateway(GOMODEL_MASTER_KEY=MASTER, GOMODEL_KEYS_FILE=str(path), vllm=upstream)


async def send(client, key, pieces, framing, path=CHAT, content_type="application/json"):
    """The head, and each piece once what came before it has been read."""
    fields = [("Authorization", f"Bearer {key}"), ("Content-Type", content_type)]
    pieces = [each for each in pieces if each]
    if framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
        pieces = [b"%x\r\n%b\r\n" % (len(each), each) for each in pieces] + [b"0\r\n\r\n"]
    else:
        fields.append(("Content-Length", str(sum(map(len, pieces)))))
    await client.send_pieces([request("POST", path, fields), *pieces])
    return await client.read_response()


@WAYS
@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND.keys())
@pytest.mark.parametrize("between", BODIES.values(), ids=BODIES.keys())
async def test_a_second_model_that_comes_later_is_a_400(restricted, upstream, connect, between, second, framing):
    client = await connect(restricted)
    answer = await send(client, ALICE, [b'{"model":"vllm/m"', between, second], framing)
    own_error(answer, 400, "invalid_body", "invalid_request_error")
    assert "second top-level `model`" in answer.json()["error"]["message"]
    assert upstream.requests == []


@WAYS
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/embeddings", "/v1/unknown"])
async def test_no_route_lets_a_second_model_pass(restricted, upstream, connect, path, framing):
    client = await connect(restricted)
    answer = await send(client, ALICE, [b'{"model":"vllm/m"', SECOND["plain"]], framing, path)
    assert answer.status == 400
    assert upstream.requests == []


@WAYS
@pytest.mark.parametrize("between", BODIES.values(), ids=BODIES.keys())
async def test_a_body_with_one_model_goes_on_whole(restricted, upstream, connect, between, framing):
    client = await connect(restricted)
    assert (await send(client, ALICE, [b'{"model":"vllm/m"', between, b"}"], framing)).status == 200
    (seen,) = upstream.requests
    assert seen.body == b'{"model":"m"' + between + b"}"
    assert json.loads(seen.body)["model"] == "m"


BROKEN = {
    "the end is missing": [b'{"model":"vllm/m"', b',"x":1'],
    "a second object": [b'{"model":"vllm/m"', b'}{"model":"vllm/secret"}'],
    "an unexpected byte": [b'{"model":"vllm/m"', b' x,"model":"vllm/secret"}'],
    "a name without an end": [b'{"model":"vllm/m"', b',"' + b"x" * PADDING],
}


@WAYS
@pytest.mark.parametrize("pieces", BROKEN.values(), ids=BROKEN.keys())
async def test_what_may_hide_a_second_model_is_a_400(restricted, upstream, connect, pieces, framing):
    answer = await send(await connect(restricted), ALICE, pieces, framing)
    own_error(answer, 400, "invalid_body", "invalid_request_error")
    assert upstream.requests == []


IN_ONE_PIECE = {
    "a second object": b'{"model":"vllm/m"} {"model":"vllm/secret"}',
    "a second object at once behind": b'{"model":"vllm/m"}{"model":"vllm/secret"}',
    "an object without a model before it": b'{} {"model":"vllm/m"}',
    "a byte behind": b'{"model":"vllm/m"}x',
    "no end": b'{"model":"vllm/m"',
    "no end of a list": b'{"model":"vllm/m","x":[1',
    "two commas": b'{"model":"vllm/m",,"x":1}',
    "a long one with a second object": b'{"x":"' + b"a" * 20_000 + b'","model":"vllm/m"}{"model":"vllm/secret"}',
    "a long one with a first object": b'{"x":"' + b"a" * 20_000 + b'"} {"model":"vllm/m"}',
}


@WAYS
@pytest.mark.parametrize("body", IN_ONE_PIECE.values(), ids=IN_ONE_PIECE.keys())
async def test_a_body_that_comes_in_one_piece_is_looked_at_to_its_end(restricted, upstream, connect, body, framing):
    raw = chunked(body) + LAST_CHUNK if framing == "chunked" else body
    size = ("Transfer-Encoding", "chunked") if framing == "chunked" else ("Content-Length", str(len(body)))
    for _ in range(2):  # with a new head, and with one that is known
        answer = await ask(
            await connect(restricted), request("POST", CHAT, [("Authorization", f"Bearer {ALICE}"), size]) + raw
        )
        own_error(answer, 400, "invalid_body", "invalid_request_error")
    assert upstream.requests == []


@WAYS
@pytest.mark.parametrize("padding", [0, PADDING])
async def test_what_stands_behind_the_end_of_a_form_is_a_400(restricted, upstream, connect, padding, framing):
    whole = form("vllm/m", "first", wav=b"a" * padding)
    hidden = part("model", b"vllm/secret", "b0undary") + b"--b0undary--\r\n"
    for pieces in ([whole + hidden], [whole, hidden], [whole[:-2], b"\r\n", b"\r\n", b"x"]):
        content_type = "multipart/form-data; boundary=b0undary"
        client = await connect(restricted)
        answer = await send(client, ALICE, pieces, framing, "/v1/audio/transcriptions", content_type)
        own_error(answer, 400, "invalid_body", "invalid_request_error")
    assert upstream.requests == []
    for pieces in ([whole], [whole[:-2]], [whole, b"\r\n"]):
        answer = await send(await connect(restricted), ALICE, pieces, framing, "/v1/audio/transcriptions", content_type)
        assert answer.status == 200
        assert upstream.requests[-1].body == b"".join(pieces).replace(b"vllm/m", b"m")


@WAYS
@pytest.mark.parametrize("padding", [0, PADDING])
async def test_a_second_field_that_comes_later_is_a_400(restricted, upstream, connect, padding, framing):
    first = form("vllm/m", "first", wav=b"a" * padding).removesuffix(b"--b0undary--\r\n")
    second, end = part("model", b"vllm/secret", "b0undary"), b"--b0undary--\r\n"
    content_type = "multipart/form-data; boundary=b0undary"
    path = "/v1/audio/transcriptions"
    answer = await send(await connect(restricted), ALICE, [first, second, end], framing, path, content_type)
    own_error(answer, 400, "invalid_body", "invalid_request_error")
    assert "second field `model`" in answer.json()["error"]["message"]
    assert upstream.requests == []
    answer = await send(await connect(restricted), ALICE, [first, second[:-20]], framing, path, content_type)
    assert (answer.status, upstream.requests) == (400, [])
    answer = await send(await connect(restricted), ALICE, [first, end], framing, path, content_type)
    assert answer.status == 200
    (seen,) = upstream.requests
    assert seen.body == (first + end).replace(b"vllm/m", b"m")


async def test_who_may_ask_for_every_model_is_not_waited_for(restricted, upstream, connect):
    for key in (BOB, MASTER):
        client = await connect(restricted)
        answer = await send(client, key, [b'{"model":"vllm/m"', b',"x":"' + b"a" * PADDING, b'",'], "length")
        assert answer.status == 200
    assert [each.body.endswith(b'a",') for each in upstream.requests] == [True, True]


async def test_a_form_of_one_piece_is_looked_at_to_its_end(restricted, upstream, connect):
    body = form("vllm/m", "first").removesuffix(b"--b0undary--\r\n")
    head = [("Authorization", f"Bearer {ALICE}")]
    hidden = part("y", b"--b0undary--", "b0undary") + part("model", b"vllm/secret", "b0undary")
    answer = await ask(await connect(restricted), post(body + hidden + b"--b0undary--\r\n", headers=head))
    assert (answer.status, upstream.requests) == (400, [])


@WAYS
async def test_a_body_that_waits_on_disk_still_follows_the_response_it_continues(
    gateway, make_upstream, connect, tmp_path, framing
):
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
    path = tmp_path / "keys.toml"
    path.write_text(entry("alice", ALICE, models=["*"]))
    handle = await gateway(GOMODEL_MASTER_KEY=MASTER, GOMODEL_KEYS_FILE=str(path), vllm=one, vllm_b=other)
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models", [("Authorization", f"Bearer {ALICE}")]))
    other.on_request(json_response({"id": "resp_1", "object": "response"}))
    assert (await send(client, ALICE, [b'{"model":"vllm-b/m"}'], framing, "/v1/responses")).status == 200
    one.repeat(OK)
    other.repeat(OK)
    behind = b',"previous_response_id":"resp_1"}'
    for _ in range(3):
        pieces = [b'{"model":"m"', BODIES["behind much"], behind]
        answer = await send(client, ALICE, pieces, framing, "/v1/responses")
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
        assert other.requests[-1].body == b"".join(pieces)
