"""Heads of odd parts, in odd pieces, through the whole gateway: one clear answer, and nothing improper upstream."""

import random

import pytest

from ..harness.scripted import PeerGone
from ..harness.verdicts import OK

PARTS = [
    b"Accept: text/event-stream",
    b"Authorization: Bearer canary",
    b"Connection: close",
    b"Connection: X-Soup, keep-alive",
    b"Connection: Content-Length",
    b"Content-Length: 18",
    b"Content-Length: 1_8",
    b"Content-Type: application/json",
    b"Cookie: canary",
    b"Expect: 100-continue",
    b"Expect: a miracle",
    b"Host: a b",
    b"Keep-Alive: canary",
    b"TE: trailers",
    b"Trailer: X-Soup",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Upgrade: websocket",
    b"X-Api-Key: canary",
    b"X-Request-Id: \xff",
    b"X-Soup: \xfe \t kept",
    b"X-Soup : 1",
    b" folded",
    b"X-Empty:",
    b"\x01: 1",
    b"no colon",
]
TARGETS = [b"/v1/chat/completions", b"/p/vllm/tokenize", b"/v1/models", b"/health", b"//x", b"/p/vllm/%2e%2e/x", b"*"]
DROPPED = {b"authorization", b"cookie", b"keep-alive", b"te", b"trailer", b"x-api-key", b"upgrade", b"expect"}


@pytest.mark.parametrize("seed", range(80))
async def test_any_soup_has_one_clear_answer_and_nothing_improper_goes_upstream(gateway, upstream, connect, seed):
    chance = random.Random(seed)
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream), safety_s=5)
    lines = [b"%b %b HTTP/1.1" % (chance.choice([b"POST", b"GET", b"TRACE"]), chance.choice(TARGETS)), b"Host: x"]
    lines += chance.choices(PARTS, k=chance.randint(0, 5))
    if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in lines):
        lines.append(b"Content-Length: 18")
    raw = b"\r\n".join(lines) + b"\r\n\r\n" + b'{"model":"vllm/m"}'
    cuts = sorted(chance.sample(range(1, len(raw)), chance.randint(0, 6)))
    try:
        await client.send_pieces([raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)])
    except PeerGone:
        pass  # refused before it was all sent
    answer = await client.read_response(raw.split(b" ")[0].decode())
    assert answer.status in (200, 400, 401, 403, 404, 405, 408, 417, 426)
    assert len(upstream.requests) <= 1
    for seen in upstream.requests:
        assert b"canary" not in seen.raw
        assert not DROPPED & {name.lower() for name, _ in seen.headers}
