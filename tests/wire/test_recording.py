"""A recording over real sockets: what is written down, that it is answered so again, and that it can be sent again."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gomodel.config.settings import Secret
from gomodel.doctor.places import place_of
from gomodel.recording.answers import Answers
from gomodel.recording.command import recorded_in, summary
from gomodel.recording.journal import Journal
from gomodel.recording.lines import End, first_line
from gomodel.recording.load import send
from gomodel.recording.recorder import Recorder, Target
from gomodel.recording.replay import Replay

from ..harness.listening import listening
from ..harness.scripted import (
    SAFETY_S,
    Fin,
    RawClient,
    Reset,
    Stall,
    chunked,
    head,
    json_response,
    request,
    response,
)
from ..harness.tunnels import frame, handshake

ASK = request("POST", "/v1/chat/completions", [("Authorization", "Bearer secret")], b'{"model":"m","messages":[]}')
# What a loop's clock may be wrong by; uvloop's has milliseconds.
CLOCK_S = 0.005
EVENTS = [b"data: %d\n\n" % number for number in range(3)]
STREAM = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"), ("Set-Cookie", "secret")])


@asynccontextmanager
async def client(port):
    made = await RawClient.connect(port)
    try:
        yield made
    finally:
        made.fin()


class Recordings:
    """`async with recorder() as port`; then `exchanges`."""

    def __init__(self, directory, upstream):
        self.directory = directory
        self._upstream = upstream
        self.reasons = []

    @asynccontextmanager
    async def recorder(self, limit_bytes=1 << 20):
        journal = Journal(self.directory, limit_bytes, self.reasons.append)
        journal.say(first_line("now", "there"))
        try:
            async with listening(Recorder(Target("127.0.0.1", self._upstream.port, None, None), journal).serve) as port:
                yield port
        finally:
            journal.close()

    @property
    def exchanges(self):
        return recorded_in(self.directory)

    @asynccontextmanager
    async def replayed(self, *, any_body=False, speed=0.0):
        async with listening(Replay(Answers(self.exchanges, any_body=any_body), speed).serve) as port:
            yield port


@pytest.fixture
def recordings(upstream, tmp_path):
    return Recordings(tmp_path, upstream)


async def asked(port, data=ASK, method="POST"):
    async with client(port) as made:
        await made.send(data)
        return await made.read_response(method)


async def test_what_passes_is_unchanged_written_down_and_answered_again_to_the_byte(recordings, upstream):
    upstream.on_request(STREAM, *(chunked(each) for each in EVENTS), b"0\r\n\r\n")
    upstream.on_request(json_response({"id": 7}, headers=[("X-Engine", "1")]))
    async with recordings.recorder() as port, client(port) as made:
        await made.send(ASK)
        first = await made.read_response("POST")
        await made.send(ASK)
        second = await made.read_response("POST")
    assert (first.body, first.complete) == (b"".join(EVENTS), True)
    assert upstream.requests[0].raw == ASK
    text = "".join(path.read_text() for path in recordings.directory.iterdir())
    assert "secret" not in text
    assert [each.end for each in recordings.exchanges] == [End.COMPLETE, End.COMPLETE]
    async with recordings.replayed() as port, client(port) as made:
        for wanted in (first, second, first):
            await made.send(ASK)
            again = await made.read_response("POST")
            masked = wanted.raw.replace(b"Set-Cookie: secret", b"Set-Cookie: ***")
            assert (again.raw, again.chunks) == (masked, wanted.chunks)


async def test_gaps_are_as_recorded_divided_by_the_speed(recordings, upstream):
    """By the clock of the loop that waits: each piece is due at its recorded time, and none before."""
    upstream.on_request(STREAM, *(chunked(each) for each in EVENTS), b"0\r\n\r\n")
    async with recordings.recorder() as port:
        await asked(port)
    (found,) = recordings.exchanges
    begun = found.asked_at
    slow = replace(found, response=[(begun + 0.05 * number, data) for number, (_, data) in enumerate(found.response)])
    for speed in (1.0, 5.0):
        replay = Replay(Answers([slow]), speed)
        async with listening(replay.serve) as port:
            loop = asyncio.get_running_loop()
            at = loop.time()
            answer = await asked(port)
            took = loop.time() - at
        assert answer.body == b"".join(EVENTS)
        assert took >= 0.05 * (len(slow.response) - 1) / speed - CLOCK_S


@pytest.mark.parametrize(
    ("steps", "end", "seen"),
    [
        pytest.param((head(200, [("Content-Length", "9")]), b"part", Fin()), End.SERVER_CLOSED, "fin", id="closed"),
        pytest.param((head(200, [("Content-Length", "9")]), b"part", Reset()), End.SERVER_RESET, "reset", id="reset"),
        pytest.param((head(200), b"until the end", Fin()), End.COMPLETE, "fin", id="until the end"),
    ],
)
async def test_how_an_answer_ended_is_recorded_and_played(recordings, upstream, steps, end, seen):
    upstream.on_request(*steps)
    async with recordings.recorder() as port:
        first = await asked(port)
    assert [each.end for each in recordings.exchanges] == [end]
    async with recordings.replayed() as port:
        again = await asked(port)
    assert (again.body, again.end, again.complete) == (first.body, seen, first.complete)


async def test_a_client_that_leaves_is_recorded_and_its_server_learns_of_it(recordings, upstream):
    upstream.on_request(STREAM, chunked(EVENTS[0]), Stall())
    async with recordings.recorder() as port:
        async with client(port) as made:
            await made.send(ASK)
            await made.read_head("POST")
            await made.read_body_until(EVENTS[0])
        await upstream.connections[0].closed
        upstream.release()
    assert [each.end for each in recordings.exchanges] == [End.CLIENT_LEFT]


async def test_a_client_that_says_nothing_more_and_reads_on_gets_and_leaves_a_whole_answer(tmp_path):
    """By a server that answers such a client."""

    async def answering(reader, writer):
        await reader.read()
        writer.write(response(b"late"))
        writer.close()

    async with listening(answering) as port:
        recordings = Recordings(tmp_path, SimpleNamespace(port=port))
        async with recordings.recorder() as recorder:
            reader, writer = await asyncio.open_connection("127.0.0.1", recorder)
            writer.write(ASK)
            writer.write_eof()
            async with asyncio.timeout(SAFETY_S):
                assert (await reader.read()).endswith(b"late")
            writer.close()
    assert [(each.end, each.response[-1][1]) for each in recordings.exchanges] == [(End.COMPLETE, b"late")]


async def test_a_client_that_said_all_and_then_left_ends_the_answer(tmp_path):
    """Its end alone does not say it; that it takes nothing any more does."""
    gone = asyncio.Event()

    async def endless(reader, writer):
        try:
            with suppress(OSError):
                writer.write(STREAM)
                while True:
                    writer.write(chunked(b"x" * 10_000))
                    await writer.drain()
        finally:
            gone.set()

    async with listening(endless) as port:
        recordings = Recordings(tmp_path, SimpleNamespace(port=port))
        async with recordings.recorder(limit_bytes=1 << 30) as recorder:
            reader, writer = await asyncio.open_connection("127.0.0.1", recorder)
            writer.write(ASK)
            writer.write_eof()
            async with asyncio.timeout(SAFETY_S):
                await reader.readuntil(b"xxx")
                writer.transport.abort()
                await gone.wait()
    assert [each.end for each in recordings.exchanges] == [End.CLIENT_LEFT]


async def test_an_answer_behind_interim_ones_keeps_its_connection(recordings, upstream):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    upstream.on_request(b"HTTP/1.1 100 Continue\r\n\r\n", hints, json_response({}))
    async with recordings.recorder() as port, client(port) as made:
        await made.send(ASK)
        await made.read_until(b"{}")
    async with recordings.replayed() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(SAFETY_S):
                for _ in range(2):
                    writer.write(ASK)
                    got = await reader.readuntil(b"{}")
                    assert (got.startswith(hints), got.count(b"100 Continue")) == (True, 0)
        finally:
            writer.close()


async def test_a_websocket_is_recorded_and_opened_again_for_another_key(recordings, upstream):
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    upstream.on_request(answer + b"Sec-WebSocket-Accept: old\r\n\r\n", frame(b"hello", key=None), Fin())
    ask = handshake("/v1/realtime")
    async with recordings.recorder() as port, client(port) as made:
        await made.send(ask)
        assert (await made.read_all_until_close()).endswith(b"hello")
    async with recordings.replayed() as port, client(port) as made:
        await made.send(ask)
        again = await made.read_all_until_close()
    assert again.endswith(b"hello")
    assert b"Sec-WebSocket-Accept: old" not in again


async def test_what_was_not_recorded_is_404_and_says_what_to_do(recordings, upstream):
    upstream.on_request(json_response({}))
    async with recordings.recorder() as port:
        await asked(port)
    other = request("POST", "/v1/chat/completions", [], b'{"model":"n"}')
    async with recordings.replayed() as port, client(port) as made:
        await made.send(other)
        answer = await made.read_response("POST")
        assert answer.status == 404
        assert b"--any-body answers whatever the body" in answer.body
        await made.send(request("GET", "/health"))  # of whoever stands before it
        assert (await made.read_response()).status == 200
        await made.send(request("GET", "/v1/models"))
        assert b'"id":"m"' in (await made.read_response()).body
    async with recordings.replayed(any_body=True) as port:
        assert (await asked(port, other)).status == 200


async def test_a_full_recording_ends_and_what_passes_still_passes(recordings, upstream):
    upstream.repeat(json_response({"x": "y" * 100}))
    async with recordings.recorder(limit_bytes=2000) as port, client(port) as made:
        for _ in range(10):
            await made.send(ASK)
            assert (await made.read_response("POST")).complete
    assert recordings.reasons == ["the limit of 2,000 bytes is reached"]
    assert 0 < len([each for each in recordings.exchanges if each.end]) < 10


async def test_a_server_that_is_not_there_is_a_closed_connection(recordings, upstream):
    upstream.stop_listening()
    async with recordings.recorder() as port, client(port) as made:
        assert await made.read_all_until_close() == b""


async def test_a_recording_is_sent_as_load_at_its_times_with_another_key(recordings, upstream):
    upstream.repeat(json_response({}))
    async with recordings.recorder() as port:
        for _ in range(3):
            await asked(port)
    sent = len(upstream.requests)
    upstream.on_request(response(b"no", 500))
    place = place_of(f"http://127.0.0.1:{upstream.port}/base", Secret("new"))
    async with asyncio.timeout(SAFETY_S):
        load = await send(recordings.exchanges, place, 0.0)
    assert (load.results["200"], load.results["500"], load.errors) == (2, 1, 1)
    for each in upstream.requests[sent:]:
        assert each.target == "/base/v1/chat/completions"
        assert each.raw.count(b"Bearer new") == 1
        assert b"***" not in each.raw
    assert summary(load).splitlines()[0] == "3 requests, 1 failed"


async def test_a_client_that_left_leaves_again_and_that_is_no_failure(recordings, upstream):
    upstream.on_request(Stall())
    async with recordings.recorder() as port:
        async with client(port) as made:
            await made.send(ASK)
            await upstream.wait_for_request()
        await upstream.connections[0].closed
    upstream.on_request(Stall())
    load = await send(recordings.exchanges, place_of(f"http://127.0.0.1:{upstream.port}", None), 1.0)
    assert (dict(load.results), load.errors) == ({"left, as recorded": 1}, 0)


@pytest.mark.parametrize("ends", [Fin, Reset])
async def test_an_end_as_recorded_is_no_failure(recordings, upstream, ends):
    upstream.repeat(head(200, [("Content-Length", "9")]), b"part", ends())
    async with recordings.recorder() as port:
        await asked(port)
    load = await send(recordings.exchanges, place_of(f"http://127.0.0.1:{upstream.port}", None), 0.0)
    assert (load.results.total(), load.errors) == (1, 0)


async def test_a_load_waits_for_the_recorded_times(recordings, upstream):
    upstream.repeat(json_response({}))
    async with recordings.recorder() as port:
        for _ in range(2):
            await asked(port)
    first, second = recordings.exchanges
    later = replace(second, at=first.at + 0.1)
    loop = asyncio.get_running_loop()
    at = loop.time()
    await send([later, first], place_of(f"http://127.0.0.1:{upstream.port}", None), 1.0)
    assert loop.time() - at >= 0.1 - CLOCK_S
