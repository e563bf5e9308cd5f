"""Random clients against random instances, and what must hold whatever they do.

    make chaos SEED=7 REQUESTS=2000

Every request has a token of its own, and everything that belongs to it is made of that token: what the client sends,
what the instance answers and how each of them misbehaves follow from it and the seed. So a byte of somebody else's
shows at once, and a run can be had again. The suite runs a short one.
"""

import asyncio
import contextlib
import os
import random
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..harness.scripted import (
    LAST_CHUNK,
    Close,
    Fin,
    PeerGone,
    RawClient,
    ReadBody,
    ReadHead,
    Reset,
    ResponseMessage,
    SendPieces,
    Stall,
    chunked,
    head,
    request,
    response,
)
from ..harness.verdicts import turned

SEED = int(os.environ.get("SEED") or 1)
REQUESTS = int(os.environ.get("REQUESTS") or 80)
CLIENTS = 12
PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/p/vllm/x", "/p/vllm/v1/messages")
# What would be a request of its own if a body's end were seen in the wrong place.
SMUGGLED = b"\r\n0\r\n\r\nGET /p/vllm/smuggled HTTP/1.1\r\nHost: x\r\nX-Chaos: smuggled\r\n\r\n"
# gomodel's own, where a stream broke off between two events.
LAST_EVENT = re.compile(rb'(?:event: error\n)?data: \{"(?:error|type)"')
SHORT = {
    "HTTP_REQUEST_IDLE_TIMEOUT": "150ms",
    "HTTP_RESPONSE_HEADER_TIMEOUT": "400ms",
    "HTTP_STREAM_IDLE_TIMEOUT": "300ms",
    "HTTP_WRITE_IDLE_TIMEOUT": "400ms",
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1000000",
}


@dataclass
class Exchange:
    """One request: what is sent, what the instance is to do, and what a whole answer is."""

    token: str
    raw: bytes
    body: bytes  # as the instance must get it
    steps: list[Any]
    status: int
    answer: bytes | None  # None: it never comes whole
    http_10: bool
    seen: list[Any] = field(default_factory=list)


def exchange(number: int) -> Exchange:
    token = f"t{SEED}-{number}"
    dice = random.Random(token)
    path = dice.choice(PATHS)
    inference = not path.startswith("/p/")
    filling = (token.encode() + SMUGGLED) * dice.choice((0, 1, 5, 2000 if dice.random() < 0.2 else 20))
    text = repr(filling)[2:-1].replace("'", "").encode().replace(b"\\", b"")
    start = b'{"model":"vllm/m","x":"' if inference else b""
    sent = start + text + b'"}' if inference else filling
    body = sent.replace(b"vllm/m", b"m", 1) if inference else sent
    if dice.random() < 0.4:
        cuts = sorted(dice.randrange(len(sent) + 1) for _ in range(dice.randrange(4)))
        pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        raw = request("POST", path, [("X-Chaos", token)], body=[each for each in pieces if each])
        http_10 = False
    else:
        raw = request("POST", path, [("X-Chaos", token)], body=sent)
        http_10 = dice.random() < 0.15
        if http_10:
            raw = raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    steps, status, answer = misbehaviour(dice, token)
    return Exchange(token, raw, body, steps, status, answer, http_10)


def misbehaviour(dice: random.Random, token: str) -> tuple[list[Any], int, bytes | None]:
    """What the instance does, the status it sends, and its answer if that is whole."""
    events = [b"data: %b %d\n\n" % (token.encode(), n) for n in range(dice.choice((1, 3, 30)))]
    whole = b"".join(events) * (200 if dice.random() < 0.1 else 1)
    stream = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    chunks = [chunked(each) for each in events]
    some = b"".join(chunks[: dice.randrange(len(chunks) + 1)])
    end = dice.choice(([Fin()], [Reset()], [Close()], [Stall()]))
    kind = dice.randrange(16)
    if kind < 4:
        return [ReadBody(), response(whole)], 200, whole
    if kind < 8:
        sent = SendPieces((stream, *chunks, LAST_CHUNK)) if kind < 6 else stream + b"".join(chunks) + LAST_CHUNK
        return [ReadBody(), sent], 200, b"".join(events)
    if kind == 8:
        return [ReadBody(), response(token.encode(), dice.choice((400, 404, 429, 500, 503)))], 0, token.encode()
    if kind == 9:
        return [ReadBody(), stream + some, *end], 200, None
    if kind == 10:
        return [ReadBody(), head(200, [("Content-Length", str(len(whole) + 1))]) + whole, *end], 200, None
    if kind == 11:
        return (
            [ReadBody(), dice.choice((b"garbage\r\n\r\n", b"HTTP/1.1 200", b"RTSP/1.0 200 OK\r\n\r\n", b"")), *end],
            0,
            None,
        )
    if kind == 12:
        return [ReadBody(), stream + some + b"zz\r\n" + token.encode(), Stall()], 200, None
    if kind == 13:  # more than one answer
        return [ReadBody(), response(whole) + response(b"stray " + token.encode())], 200, whole
    if kind == 14:  # before it has read the request
        return [response(whole, 413, [("Connection", "close")]), Close()], 413, whole
    return [ReadBody(), head(200) + whole, dice.choice((Fin(), Reset()))], 200, whole


class Chaos:
    """The run: who asked for what, and the judgement of each answer."""

    def __init__(self, handle: Any, connect: Any) -> None:
        self.handle = handle
        self.connect = connect
        self.exchanges: dict[str, Exchange] = {}
        self.whole = 0

    async def serve(self, connection: Any) -> None:
        """What the instance does with any request."""
        seen = connection.current
        asked = self.exchanges[seen.get("X-Chaos")]  # KeyError: a request that nobody made
        asked.seen.append(seen)
        for step in asked.steps:
            await connection.run(step)

    def judge(self, asked: Exchange, answer: ResponseMessage) -> None:
        where = (asked.token, asked.steps, answer.raw[-300:], answer.end)
        assert answer.malformed is None, where
        if not answer.has_head or not answer.complete:
            if answer.status == asked.status and asked.answer is not None:
                so_far = LAST_EVENT.split(answer.body)[0]
                assert asked.answer.startswith(so_far), where
            return
        if answer.get("X-GoModel-Provider") is None or b'"error"' in answer.body[:30]:
            assert answer.status >= 400, where  # the gateway's own
            assert answer.get("Content-Length") is not None, where
            return
        assert asked.answer is not None, where  # a broken answer that looks whole
        assert answer.body == asked.answer, where
        assert answer.status == asked.status or not asked.status, where
        self.whole += 1

    async def client(self, numbers: list[int]) -> None:
        client: RawClient | None = None
        while numbers:
            number = numbers.pop()
            dice = random.Random(f"{SEED}/client/{number}")
            asked = exchange(number)
            self.exchanges[asked.token] = asked
            if client is None or client.closed.done:
                client = await self.connect(self.handle, receive_buffer=dice.choice((None, 4096)))
            if not await self.ask(client, asked, dice):
                client.wire.close()
                client = None
        if client is not None:
            client.wire.close()

    async def ask(self, client: RawClient, asked: Exchange, dice: random.Random) -> bool:
        """Whether the connection may go on."""
        mood = dice.random()
        if mood < 0.15:  # leaves in the middle of its request, or right behind it
            with contextlib.suppress(PeerGone):
                await client.send(asked.raw[: dice.randrange(len(asked.raw) + 1)])
                await asyncio.sleep(dice.choice((0, 0, 0.02)))
            dice.choice((client.fin, client.reset, client.half_close))()
            return False
        body_bytes = len(asked.raw) - asked.raw.index(b"\r\n\r\n") - 4
        if mood < 0.2 and body_bytes:  # stalls in its upload
            await client.send(asked.raw[: -dice.randrange(1, min(10, body_bytes + 1))])
        else:
            sending = asyncio.create_task(self.send(client, asked.raw, dice))
            if mood < 0.3:  # reads slowly
                await asyncio.sleep(0.05)
            answer = await client.read_response("POST")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self.judge(asked, answer)
            return answer.complete and answer.end == "keepalive"
        self.judge(asked, await client.read_response("POST"))
        return False

    async def send(self, client: RawClient, raw: bytes, dice: random.Random) -> None:
        with contextlib.suppress(PeerGone):
            cut = dice.randrange(len(raw))
            if dice.random() < 0.5:
                await client.send_pieces((raw[:cut], raw[cut:]))
            else:
                await client.send(raw)

    def judge_instance(self) -> None:
        """Of what the instance got nothing was invented, mixed up or repeated without need."""
        for asked in self.exchanges.values():
            assert len(asked.seen) <= 3, asked.token
            for seen in asked.seen:
                assert asked.body.startswith(seen.body), (asked.token, seen.body[:300])
                if seen.complete:
                    assert seen.body == asked.body, (asked.token, seen.body[:300])


@pytest.mark.transports("tcp", "tls", "unix")
async def test_whatever_clients_and_instances_do_no_byte_is_crossed_and_nothing_broken_looks_whole(
    gateway, upstream, connect
):
    handle = await gateway(SHORT, vllm=upstream)
    chaos = Chaos(handle, connect)
    upstream.repeat(ReadHead(), chaos.serve)
    numbers = list(range(REQUESTS))
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(chaos.client(numbers))
    telemetry = handle.gateway.telemetry
    await turned(lambda: not telemetry.running.records and handle.gateway.connections == 0)
    chaos.judge_instance()
    assert chaos.whole > REQUESTS / 4
    assert handle.replica().in_flight == 0
    counted = sum(series.count for series in telemetry.requests.values())
    assert chaos.whole <= counted <= REQUESTS
    # Those who left hold nothing at the instance; what is open there is idle.
    pool = handle.replica().pool
    await turned(lambda: len([each for each in upstream.open_connections if not each.over.done]) <= len(pool._idle))
