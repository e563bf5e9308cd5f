"""Whatever a client sends and an instance answers, both read the same bytes on both ways that a request is served.

What need not be waited for is served in the turn of the loop in which it comes, the rest by the connection's task; they
are the same functions, called in other turns. Each conversation is made from a seed and held twice, with a gateway that
serves all it can at once and one that leaves all to the task. GOMODEL_TEST_WAY=task runs all other tests on the second.
"""

import json
import random
import re
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from gomodel.downstream.at_once import in_its_turn

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, PeerGone, Reset, chunked, head, request, response
from ..harness.verdicts import CHAT, KEPT, OK

TARGETS = [CHAT] * 6 + ["/v1/messages", "/v1/responses", "/v1/some/new", "/p/vllm/x", "/health", "/nothing", "//x"]
ANSWERS: list[tuple[Any, ...]] = [
    *[(OK,)] * 6,
    (response(b"", 204),),
    (response(b'{"error":"no"}', 404),),
    (response(b'{"error":"paused: currently busy"}', 503),),
    (response(b"x" * 70_000, 200, [("Connection", "close")]), Fin()),
    (SSE_HEAD, chunked(b"data: 1\n\n"), chunked(b"data: 2\n\n"), LAST_CHUNK),
    (SSE_HEAD + chunked(b"data: 1\n\n") + LAST_CHUNK,),
    (SSE_HEAD, chunked(b"data: 1\n\n"), Fin()),
    (head(200), b"until the end", Fin()),
    (head(200, [("Content-Length", "9")]), b"short", Fin()),
    (b"HTTP/1.1 200\x00\r\n\r\n", Fin()),
    (Reset(),),
]
FIELDS = ["X-N: %d", "traceparent: 00-%032x-00f067aa0ba902b7-01", "X-Api-Key: %d", "Connection: close", "Cookie: %d"]


class Asked(NamedTuple):
    """One request of a conversation, in the pieces in which it is sent, and the script of its answer."""

    pieces: list[bytes]
    answer: tuple[Any, ...]


def body_of(dice: random.Random) -> bytes:
    """JSON with its model anywhere, nowhere or twice; now and then something else."""
    text = dice.choice(["x", 'She said: "No."\n', "\\", "é", "\x00"]) * dice.choice([0, 1, 40, 3000, 40_000])
    members: list[tuple[str, Any]] = [("messages", [{"role": "user", "content": text}]), ("stream", True)]
    if dice.random() < 0.2:
        members.append(("tools", [{"model": {"type": "string"}}]))
    for _ in range(dice.choice([0, 1, 1, 1, 1, 1, 1, 2])):
        model = dice.choice(["vllm/m"] * 5 + ["m", "vllm/", "", 1, "other/m"])
        members.insert(dice.randint(0, len(members)), ("model", model))
    space = dice.choice([(",", ":"), (", ", ": "), (" ,\n", " :\n")])
    written = (json.dumps(name) + space[1] + json.dumps(value, separators=space) for name, value in members)
    body = ("{" + space[0][1:] + space[0].join(written) + "}").encode()
    if dice.random() < 0.1:
        at = dice.randrange(len(body))
        body = dice.choice([b"", b"[]", body[:at], body[:at] + b"]" + body[at:], body[:at] + b"\xff" + body[at + 1 :]])
    return body


def conversation(seed: int) -> list[Asked]:
    dice, asked = random.Random(seed), []
    method, target = "POST", dice.choice(TARGETS)
    fields = [tuple(each.split(": ")) for each in dice.sample(FIELDS[:2], dice.randint(0, 2))]
    for number in range(dice.randint(1, 5)):
        if dice.random() < 0.2:
            target = dice.choice(TARGETS)
        more = [tuple(dice.choice(FIELDS).split(": "))] if dice.random() < 0.1 else []
        given = [(name, value % number if "%" in value else value) for name, value in [*fields, *more]]
        given += [("X-Request-Id", f"r{seed}-{number}"), ("Content-Type", "application/json")]
        body = body_of(dice)
        marks = sorted(dice.sample(range(1, len(body)), dice.randint(0, 3))) if len(body) > 9 else []
        chunks = [body[low:high] for low, high in zip([0, *marks], [*marks, len(body)], strict=True)]
        if dice.random() < 0.05:
            method, body = "GET", b""
        raw = request(method, target, given, chunks if body and dice.random() < 0.3 else body)
        if dice.random() < 0.05:
            raw = raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        ends = raw.index(b"\r\n\r\n") + 4
        cuts = {dice.randrange(1, len(raw)) for _ in range(dice.choice([0, 0, 1, 2]))} | {ends} & {
            dice.choice([0, ends])
        }
        points = [0, *sorted(cuts - {len(raw)}), len(raw)]
        pieces = [raw[low:high] for low, high in pairwise(points)]
        asked.append(Asked(pieces, dice.choice(ANSWERS)))
    return asked


@pytest.fixture
def held(gateway, make_upstream, connect):
    """Holds a conversation; what the instance read, and what the client did."""

    async def hold(asked: list[Asked], *, at_once: bool) -> tuple[list[Any], list[Any]]:
        upstream = await make_upstream()
        upstream.repeat(OK)
        for each in asked:
            upstream.on_request(*each.answer)
        handle = await gateway(KEPT, vllm=upstream, RETRY_INITIAL_BACKOFF="0s", CIRCUIT_BREAKER_FAILURE_THRESHOLD="99")
        handle.expect_error("")
        if not at_once:
            handle.gateway._server.begin = in_its_turn
        read = []
        client = await connect(handle)
        for each in asked:
            try:
                await client.send_pieces(each.pieces)
            except PeerGone:  # refused before it had sent all
                pass
            answer = await client.read_response()
            raw = re.sub(rb"\r\nDate: [^\r]+", b"", answer.raw)
            # What a client reads that was refused while it was sending depends on who was faster.
            read.append((answer.end, raw if answer.end != "reset" else b""))
            if answer.end != "keepalive":
                client = await connect(handle)
        port = str(upstream.port).encode()
        # Where chunks are cut is nobody's business.
        seen = [(each.complete, each.head.replace(port, b""), each.body) for each in upstream.requests]
        return seen, read

    return hold


@pytest.mark.parametrize("first", range(0, 120, 10))
async def test_both_sides_read_the_same(held, first):
    for seed in range(first, first + 10):
        asked = conversation(seed)
        at_once = await held(asked, at_once=True)
        in_turn = await held(asked, at_once=False)
        assert at_once == in_turn, seed
