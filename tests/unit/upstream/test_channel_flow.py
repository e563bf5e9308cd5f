"""What a channel takes for a whole chunk, and gives to whoever takes those, is one and belongs to this stream."""

import asyncio
from types import SimpleNamespace

import pytest

from gomodel.http1.framing import whole_chunk
from gomodel.upstream.channel import Channel

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(payload):
    return b"%x\r\n%b\r\n" % (len(payload), payload)


A, B = chunk(b"data: the first of them\n\n"), chunk(b"data: and the second\n\n")
# A chunk whose payload has a whole chunk in it, which comes in a read of its own.
OPEN, SHUT = chunk(b"before" + A + b"after").split(A)


class Sink:
    """Wants whole chunks from the moment it has the head, or the first piece of the body."""

    def __init__(self, channel, *, at_once):
        self.channel, self.at_once = channel, at_once
        self.flowed, self.pieces = [], []
        self.over = False
        self.failed = None

    def on_response(self, message, fields, data, complete):
        if data:
            self.pieces.append(data)
        if self.at_once:
            self.channel.flow_to(self)

    def on_data(self, data, complete):
        self.pieces.append(data)
        self.over = complete
        if not complete:
            self.channel.flow_to(self)

    def on_failure(self, error):
        self.failed = error

    def takes(self, data):
        if whole_chunk(data):
            self.flowed.append(data)
        return bool(whole_chunk(data))


def begun(*, at_once):
    loop = asyncio.get_running_loop()
    channel = Channel(loop, "vllm")
    given = []
    channel.pool = SimpleNamespace(give=given.append, forget=lambda channel: None)
    channel.transport = SimpleNamespace(
        write=lambda data: None, abort=lambda: None, get_write_buffer_size=lambda: 0, get_extra_info=lambda name: None
    )
    sink = Sink(channel, at_once=at_once)
    channel.begin(sink, (b"GET / HTTP/1.1\r\n\r\n",), True, False)
    return channel, sink, given


@pytest.mark.parametrize(
    ("reads", "flowed", "pieces"),
    [
        pytest.param([A, B], [A, B], [], id="one by one"),
        pytest.param([A + B, B], [B], [A[4:-2] + B[4:-2]], id="two in a read"),
        pytest.param([A[:9], A[9:], B], [B], [A[4:9], A[9:-2]], id="one in two reads"),
        pytest.param([A + B[:2], B[2:], A], [A], [A[4:-2], B[4:-2]], id="cut in its size"),
        pytest.param([A[:-1], A[-1:], B], [B], [A[4:-2]], id="cut in its end"),
        pytest.param([OPEN, A, SHUT, B], [B], [b"before", A, b"after"], id="a chunk within a chunk"),
    ],
)
async def test_whole_chunks_flow_where_one_may_begin(reads, flowed, pieces):
    channel, sink, given = begun(at_once=True)
    for read in (HEAD, *reads, LAST):
        channel.data_received(read)
    assert sink.flowed == flowed
    assert [piece for piece in sink.pieces if piece] == pieces
    assert sink.over
    assert given == [channel]


async def test_nothing_flows_that_nobody_has_asked_for_yet():
    channel, sink, _ = begun(at_once=False)
    for read in (HEAD, A, B):
        channel.data_received(read)
    assert (sink.pieces, sink.flowed) == ([A[4:-2]], [B])


@pytest.mark.parametrize("end", [LAST, A + LAST, LAST + A, b"no size\r\n"])
async def test_a_chunk_after_the_end_of_a_stream_flows_nowhere(end):
    channel, sink, _ = begun(at_once=True)
    for read in (HEAD, A, end):
        channel.data_received(read)
    flowed = list(sink.flowed)
    channel.data_received(B)
    assert sink.flowed == flowed == [A]
    assert channel.sink is None


@pytest.mark.parametrize("lost", [False, True])
async def test_nothing_flows_once_the_exchange_was_given_up(lost):
    channel, sink, _ = begun(at_once=True)
    channel.data_received(HEAD)
    if lost:
        channel.connection_lost(None)
    else:
        channel.discard()
    channel.data_received(A)
    assert sink.flowed == []
    assert (sink.failed is not None) is lost


async def test_the_next_answer_does_not_flow_to_who_took_the_last():
    channel, sink, _ = begun(at_once=True)
    for read in (HEAD, A, LAST):
        channel.data_received(read)
    after = Sink(channel, at_once=False)
    channel.begin(after, (b"GET / HTTP/1.1\r\n\r\n",), True, False)
    for read in (HEAD, A):
        channel.data_received(read)
    assert sink.flowed == [A]
    assert after.pieces == [A[4:-2]]


async def test_a_channel_has_no_more_attributes_than_an_object_holds_without_a_table_of_its_own():
    """30, in CPython: those of aiohttp's that are no slots."""
    channel, _, _ = begun(at_once=True)
    assert len(vars(channel)) <= 30
