"""Answers damaged at random: what a client takes for whole was whole, and the next request meets nothing of it.

GOMODEL_SOAK=10000 damages that many. The judge is h11, which reads the same bytes.
"""

import os
import random
from itertools import pairwise

import pytest

from ..harness.oracles import ResponseMessage
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Close,
    Fin,
    RawClient,
    Reset,
    SendPieces,
    chunked,
    head,
    request,
    response,
)
from ..harness.verdicts import OK, ask, post

SEEDS = 4
ANSWERS = int(os.environ.get("GOMODEL_SOAK", "200")) // SEEDS

SOUND = [
    SSE_HEAD + chunked(b"data: 1\n\n", b"data: 2\n\n") + LAST_CHUNK,
    response(b"hello world", 200, [("X-A", "b"), ("Content-Type", "application/json")]),
    head(200, [("Content-Type", "text/plain")]) + b"until close",
    head(103, [("Link", "x")]) + response(b"hello"),
    head(204, [("X-A", "b")]),
    head(304, [("Content-Length", "99")]),
    head(200, [("Connection", "close"), ("Transfer-Encoding", "chunked")]) + b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    response(b"x" * 70_000, 500),
]
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b":", b" ", b"\0", b"0", b";", b",", b"-", b"\xff", b"\t", b"f" * 9),
    *(b"chunked", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"100 ", b"101 ", b"Connection: content-length\r\n", b"Upgrade: x\r\n"),
]


def damaged(chance: random.Random, raw: bytes) -> bytes:
    """The bytes with up to three insertions, deletions, repetitions, other bytes or a cut, mostly in the head."""
    broken = bytearray(raw)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(min(len(broken), 300) + 1)
        act = chance.randrange(5)
        if act == 0:
            broken[at:at] = chance.choice(TOKENS)
        elif act == 1:
            del broken[at : at + chance.randrange(1, 8)]
        elif act == 2:
            broken[at : at + 1] = bytes([chance.randrange(256)])
        elif act == 3:
            broken[at:at] = broken[: chance.randrange(20)]
        else:
            del broken[at + chance.randrange(200) :]
    return bytes(broken)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_no_damage_looks_whole_or_outlives_its_request(gateway, upstream, connect, seed):
    chance = random.Random(seed)
    handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000000")
    bystander = await connect(handle)
    for _ in range(ANSWERS):
        raw = damaged(chance, chance.choice(SOUND))
        cuts = [0, *sorted(chance.randrange(len(raw) + 1) for _ in range(chance.choice([0, 0, 1, 3]))), len(raw)]
        end = chance.choice([Fin(), Close(), Reset()])
        upstream.on_request(SendPieces(tuple(raw[a:b] for a, b in pairwise(cuts) if a < b)), end)
        method = chance.choice(["POST", "GET", "HEAD"])
        # Not the fixture's client: a field value that no rule allows passes as it came.
        client = await RawClient.connect(handle.port)
        answer = await ask(client, post() if method == "POST" else request(method, "/p/vllm/x"), method)
        client.wire.close()
        judge = ResponseMessage(method)
        judge.feed(raw)
        if not isinstance(end, Reset):
            judge.feed(b"")
        if answer.complete and answer.status != 502 and judge.malformed is None:
            assert (judge.complete, judge.status, judge.body) == (True, answer.status, answer.body), (raw[:500], cuts)
        upstream.on_request(OK)
        sound = await ask(bystander)
        assert (sound.status, sound.body, sound.end) == (200, b'{"id":"ok"}', "keepalive"), (raw[:500], cuts)
