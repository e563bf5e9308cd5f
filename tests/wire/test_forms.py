"""A form reaches the instance that its `model` field names; its name is cut off, every other byte is as it was."""

import pytest

from ..harness.forms import PATH, form, part, post
from ..harness.scripted import request
from ..harness.verdicts import OK, ask, own_error

BOUNDARIES = ["b0undary", "----WebKitFormBoundary7MA4YWxk", "a'()+_,-./:=? b", "x" * 70, "-", "--"]


@pytest.fixture
async def pair(gateway, make_upstream):
    """A gateway with the instances `vllm` and `vllm-b`, and those."""
    one, other = await make_upstream(), await make_upstream()
    return await gateway(vllm=one, vllm_b=other), one, other


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("way", ["whole", "chunked", "lines"])
async def test_the_field_chooses_the_instance_and_loses_its_name(pair, connect, where, boundary, way):
    handle, one, other = pair
    other.on_request(OK)
    sent, expected = form("vllm-b/org/m", where, boundary), form("org/m", where, boundary)
    client = await connect(handle)
    if way == "chunked":
        await client.send(post([sent[at : at + 37] for at in range(0, len(sent), 37)], boundary))
    elif way == "lines":
        await client.send_split_at_crlf(post(sent, boundary))
    else:
        await client.send(post(sent, boundary))
    answer = await client.read_response()
    assert (answer.status, answer.get("X-GoModel-Provider"), one.requests) == (200, "vllm-b", [])
    (seen,) = other.requests
    assert (seen.target, seen.body) == (PATH, expected)
    assert seen.get("Content-Type") == f'multipart/form-data; boundary="{boundary}"'
    if way == "chunked":
        assert (seen.get("Transfer-Encoding"), seen.get("Content-Length")) == ("chunked", None)
    else:
        assert (seen.get("Transfer-Encoding"), seen.get("Content-Length")) == (None, str(len(expected)))


@pytest.mark.parametrize("other", ["vllm-b/m", "vllm/m", ""])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
async def test_a_second_model_is_a_400_since_servers_disagree_on_which_counts(pair, connect, where, other):
    handle, *upstreams = pair
    sent = form("vllm/m", where).removesuffix(b"--b0undary--\r\n") + part("model", other.encode(), "b0undary")
    client = await connect(handle)
    for body in (sent + b"--b0undary--\r\n", [sent, b"--b0undary--\r\n"]):
        answer = await ask(client, post(body))
        own_error(answer, 400, "invalid_body", "invalid_request_error")
        assert "second field `model`" in answer.json()["error"]["message"]
        client = await connect(handle)
    assert [each.requests for each in upstreams] == [[], []]


@pytest.mark.parametrize("where", ["first", "middle", "last"])
async def test_a_form_cut_anywhere_is_the_same_form(pair, connect, where):
    handle, _, other = pair
    sent, expected = form("vllm-b/m", where, wav=b"RIFF"), form("m", where, wav=b"RIFF")
    client = await connect(handle)
    for at in range(0, len(sent), 7):
        other.on_request(OK)
        await client.send(post(len(sent)) + sent[:at])
        await client.send_pieces([sent[at : at + 1], sent[at + 1 :]])
        assert (await client.read_response()).status == 200
        assert other.requests[-1].body == expected
    client = await connect(handle)
    other.on_request(OK)
    await client.send_byte_by_byte(post(sent))
    assert (await client.read_response()).status == 200
    assert other.requests[-1].body == expected


@pytest.mark.parametrize("model", ["m", "org/m", "nobody/m", "", None])
async def test_with_one_instance_a_form_that_names_none_passes_byte_for_byte(gateway, upstream, connect, model):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    sent = form(model)
    answer = await ask(await connect(handle), post(sent))
    if model == "":
        assert own_error_of_model(answer)
        return
    assert (answer.status, upstream.requests[0].body) == (200, sent)
    await ask(await connect(handle), post([sent[:100], sent[100:]]))
    assert upstream.requests[1].body == sent


def own_error_of_model(answer):
    error = answer.json()["error"]
    return (answer.status, error["code"], error["param"]) == (400, "model_required", "model")


@pytest.mark.parametrize("model", [None, "", "vllm-b/"])
async def test_with_several_a_form_without_a_model_is_refused(pair, connect, model):
    handle, one, other = pair
    answer = await ask(await connect(handle), post(form(model)))
    assert own_error_of_model(answer)
    assert one.connections + other.connections == []


async def test_a_bare_model_goes_to_the_instance_that_lists_it(gateway, make_upstream, connect):
    one, other = await make_upstream(models=("a",)), await make_upstream(models=("org/b",))
    handle = await gateway(vllm=one, vllm_b=other)
    other.on_request(OK)
    sent = form("org/b")
    assert (await ask(await connect(handle), post(sent))).get("X-GoModel-Provider") == "vllm-b"
    assert other.requests[0].body == sent
    answer = await ask(await connect(handle), post(form("org/c")))
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


TRUNCATED = {
    "no closing delimiter": form(None)[:-4],
    "in a header": form(None)[:30],
    "in a file": form(None)[:100],
    "before the first delimiter": b"no form at all",
    "another boundary": form("vllm/m", boundary="other"),
    "nothing": b"",
    "in the model": form("vllm/m")[:-20],
}


@pytest.mark.parametrize("body", TRUNCATED.values(), ids=TRUNCATED)
async def test_a_form_that_breaks_off_is_refused(gateway, upstream, connect, body):
    handle = await gateway(vllm=upstream)
    for raw in (post(body), post([body] if body else [])):
        own_error(await ask(await connect(handle), raw), 400, "invalid_body", "invalid_request_error")
    assert upstream.connections == []


@pytest.mark.parametrize("parameter", ["", "; boundary=", "; charset=utf-8"])
async def test_a_form_without_a_boundary_is_refused(gateway, upstream, connect, parameter):
    raw = request("POST", PATH, [("Content-Type", f"Multipart/Form-Data{parameter}")], form("vllm/m"))
    answer = await ask(await connect(await gateway(vllm=upstream)), raw)
    own_error(answer, 400, "invalid_body", "invalid_request_error")
