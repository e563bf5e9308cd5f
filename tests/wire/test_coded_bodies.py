"""A body with a Content-Encoding: no selector can be read in it, so it is a 415 that says so; below /p/ it passes."""

import gzip

import pytest

from ..harness.forms import form
from ..harness.forms import post as post_form
from ..harness.scripted import request
from ..harness.verdicts import CHAT, OK, ask

BODY = b'{"model":"vllm/m"}'
CODED = gzip.compress(BODY, mtime=0)


def coded(coding, body=CODED, target=CHAT):
    lines = [("Content-Encoding", each) for each in ([coding] if isinstance(coding, str) else coding)]
    return request("POST", target, [("Content-Type", "application/json"), *lines], body)


@pytest.mark.parametrize(
    ("coding", "named"),
    [
        ("gzip", "gzip"),
        ("GZIP", "GZIP"),
        ("zstd", "zstd"),
        ("br", "br"),
        ("deflate", "deflate"),
        ("gzip, br", "gzip, br"),
        (["identity", "gzip", "br"], "gzip, br"),
        ("x" * 5000, "x" * 64),
    ],
)
@pytest.mark.parametrize("way", ["json", "form", "chunked", "one instance"])
async def test_a_coded_body_is_a_415_that_names_the_coding(gateway, make_upstream, connect, coding, named, way):
    upstreams = [await make_upstream() for _ in range(1 if way == "one instance" else 2)]
    client = await connect(await gateway(**dict(zip(("vllm", "vllm_b"), upstreams, strict=False))))
    if way == "form":
        lines = [("Content-Encoding", each) for each in ([coding] if isinstance(coding, str) else coding)]
        await client.send(post_form(gzip.compress(form("vllm/m"), mtime=0), headers=lines))
    else:
        await client.send(coded(coding, [CODED[:9], CODED[9:]] if way == "chunked" else CODED))
    answer = await client.read_response()
    error = answer.json()["error"]
    assert (answer.status, answer.get("Accept-Encoding")) == (415, "identity")
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_content_encoding")
    assert f"Content-Encoding '{named}':" in error["message"]
    assert [each for upstream in upstreams for each in upstream.requests] == []


async def test_the_415_has_the_shape_of_the_api(gateway, upstream, connect):
    answer = await ask(await connect(await gateway(vllm=upstream)), coded("gzip", target="/v1/messages"))
    document = answer.json()
    assert (answer.status, document["type"], document["error"]["type"]) == (415, "error", "invalid_request_error")


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
async def test_what_is_no_coding_is_none(gateway, upstream, connect, coding):
    upstream.on_request(OK)
    answer = await ask(await connect(await gateway(vllm=upstream)), coded(coding, BODY))
    assert (answer.status, upstream.requests[0].body) == (200, b'{"model":"m"}')


@pytest.mark.parametrize("target", ["/p/vllm/v1/chat/completions", "/p/vllm/tokenize"])
async def test_below_the_passthrough_it_goes_on_with_its_coding(gateway, upstream, connect, target):
    upstream.on_request(OK)
    answer = await ask(await connect(await gateway(vllm=upstream)), coded("gzip", target=target))
    (seen,) = upstream.requests
    assert (answer.status, seen.body, seen.get("Content-Encoding")) == (200, CODED, "gzip")


async def test_a_known_head_is_refused_again(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    assert [(await ask(client, coded("gzip"))).status for _ in range(4)] == [415] * 4
