"""A body gives back what was read, without what was cut, then the rest, and holds little of it in memory."""

import resource
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gomodel.downstream import body as module
from gomodel.downstream import spool as spool_module
from gomodel.downstream.body import IN_MEMORY_BYTES, RequestBody
from gomodel.errors import BodyTooLarge, Overloaded

from ...harness.leaks import open_fds


class Payload:
    """What arrives: `waiting` is here, the pieces come one at a time; counts what was asked of it."""

    def __init__(self, pieces: Iterable[bytes] = (), waiting: bytes = b"") -> None:
        self._pieces = deque(pieces)
        self._waiting = waiting
        self.reads = 0

    def is_eof(self) -> bool:
        return not self._pieces

    def at_eof(self) -> bool:
        return not (self._pieces or self._waiting)

    def read_nowait(self) -> bytes:
        self.reads += 1
        waiting, self._waiting = self._waiting, b""
        return waiting

    def take(self) -> list[bytes]:
        piece = self.read_nowait() or (self._pieces.popleft() if self._pieces else b"")
        return [piece] if piece else []

    async def wait(self) -> None:
        if self._pieces:
            self._waiting = self._pieces.popleft()


def made(payload: Payload, limit_bytes: int = 1 << 30) -> RequestBody:
    request: Any = SimpleNamespace(
        fields=SimpleNamespace(content_length=None, expect=b""),
        payload=payload,
        digest=None,
        protocol=SimpleNamespace(transport=object()),
        record=SimpleNamespace(bytes_in=0, phase=None, waits_for=None, enter=lambda *_: None),
    )
    return RequestBody(request, limit_bytes)


async def filled(pieces: Iterable[bytes], rest: Iterable[bytes] = (), *, spill: bool = True) -> RequestBody:
    """One of which the pieces are held, and the rest is still to arrive."""
    pieces = list(pieces)
    body = made(Payload([*pieces, *rest]))
    for _ in pieces:
        await body.read_on(spill=spill)
    return body


async def held_to_its_end(body: RequestBody) -> None:
    while await body.read_on(spill=True):
        pass


async def sent(body: RequestBody) -> AsyncIterator[bytes]:
    """All of it, as it goes out."""
    held, rest = body.release()
    for piece in held:
        yield piece
    while rest is not None and (pieces := rest.take()):
        for piece in pieces:
            yield piece


async def content(body: RequestBody) -> bytes:
    return b"".join([piece async for piece in sent(body)])


# What was written, what is cut as (offset, size), what is left of it.
CUTS = [
    (b"abcdef", (0, 0), b"abcdef"),
    (b"abcdef", (0, 2), b"cdef"),
    (b"abcdef", (2, 3), b"abf"),
    (b"abcdef", (4, 2), b"abcd"),
    (b"abcdef", (6, 0), b"abcdef"),
    (b"abcdef", (3, 0), b"abcdef"),
    (b"abcdef", (0, 6), b""),
    (b"", (0, 0), b""),
]


@pytest.mark.parametrize(("written", "cut", "left"), CUTS)
@pytest.mark.parametrize("in_memory_bytes", [0, IN_MEMORY_BYTES])
async def test_what_is_cut_is_left_out_in_memory_and_on_disk(monkeypatch, written, cut, left, in_memory_bytes):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", in_memory_bytes)
    for pieces in ([written], [written[at : at + 1] for at in range(len(written))]):
        before = open_fds()
        body = await filled(pieces, [b"re", b"st"])
        body.cut(*cut)
        assert body.removed_bytes == cut[1]
        assert (open_fds() != before) is (len(written) > in_memory_bytes)
        assert await content(body) == left + b"rest"
        body.close()


async def test_without_a_cut_nothing_is_left_out():
    body = await filled([b"abc", b"def"], [b"ghi"])
    assert body.removed_bytes == 0
    assert await content(body) == b"abcdefghi"


def test_what_arrived_is_held_as_it_is_and_given_away():
    body = made(Payload(waiting=b"abc"))
    assert (body.arrived, body.complete) == (True, False)
    assert body.hold_arrived() == b"abc"
    assert (body.complete, body.held) == (True, [b"abc"])
    assert body.release() == ([b"abc"], None)
    assert body.held == []


async def test_what_is_read_on_is_held_and_the_rest_still_arrives():
    body = made(Payload([b"abc", b"def", b"ghi"]))
    assert [await body.read_on(), await body.read_on()] == [b"abc", b"def"]
    assert (body.arrived, body.complete) == (False, False)
    assert await body.read_on() == b"ghi"
    assert await body.read_on() == b""
    assert body.complete
    assert body.release() == ([b"abc", b"def", b"ghi"], None)


async def test_a_body_of_many_tiny_pieces_is_held_in_few():
    written = bytes(range(256)) * 40
    body = await filled([written[at : at + 1] for at in range(len(written))], spill=False)
    assert len(body.held) <= module._PIECES
    body.cut(5000, 5)
    assert await content(body) == written[:5000] + written[5005:]


async def test_a_body_over_the_limit_is_refused_however_it_is_read():
    with pytest.raises(BodyTooLarge):
        made(Payload(waiting=b"abcd"), 3).hold_arrived()
    body = made(Payload([b"abc", b"d"]), 3)
    await body.read_on()
    with pytest.raises(BodyTooLarge):
        body.take()


async def test_what_was_held_in_memory_stays_there_when_nothing_more_comes():
    before = open_fds()
    body = await filled([b"x" * IN_MEMORY_BYTES, b"y"], spill=False)
    assert await body.read_on(spill=True) == b""
    assert open_fds() == before
    assert body.release() == ([b"x" * IN_MEMORY_BYTES, b"y"], None)


@pytest.mark.parametrize("pieces", [1, 2, 99])
async def test_what_was_read_can_be_read_again_from_the_start(pieces):
    size = 3 * IN_MEMORY_BYTES
    body = await filled([b"abc", b"x" * size])
    body.cut(1, 5)
    for _ in range(pieces):
        body.take()
    body.rewind()
    assert await content(body) == b"a" + b"x" * (size - 3)
    body.close()


async def test_the_rest_is_not_asked_for_before_what_waits_on_disk_has_been_read(monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    payload = Payload([b"abc", b"rest"])
    body = made(payload)
    await body.read_on(spill=True)
    assert (body.take(), payload.reads) == ([b"abc"], 1)
    assert (body.take(), payload.reads) == ([b"rest"], 2)
    assert (body.take(), payload.reads) == ([], 3)
    body.close()


@pytest.mark.parametrize(
    ("size", "spill", "files"),
    [(IN_MEMORY_BYTES, True, 0), (IN_MEMORY_BYTES + 1, True, 1), (IN_MEMORY_BYTES + 1, False, 0)],
)
async def test_a_file_is_opened_for_what_is_over_the_limit_and_closed_with_the_body(size, spill, files):
    before = open_fds()
    body = await filled([b"x" * (size - 10), b"y" * 10], spill=spill)
    opened = open_fds() - before
    assert sum(opened.values()) == files
    assert all(kind.endswith("(deleted)") for kind in opened)  # so that nothing is left, whatever becomes of us
    body.close()
    assert open_fds() == before


async def test_what_was_held_in_memory_waits_on_disk_too_once_it_may():
    body = await filled([b"x" * IN_MEMORY_BYTES, b"yyyy"], [b"z", b"rest"], spill=False)
    assert sum(map(len, body.held)) > IN_MEMORY_BYTES
    body.cut(0, 3)
    await body.read_on(spill=True)
    assert body.held == []
    assert await content(body) == b"x" * (IN_MEMORY_BYTES - 3) + b"yyyyzrest"
    body.close()


@pytest.mark.parametrize("cut", [(0, 5), (IN_MEMORY_BYTES - 3, 5), (3 * IN_MEMORY_BYTES - 5, 5)])
async def test_a_long_one_is_read_back_in_pieces_around_the_cut(cut):
    written = bytes(range(251)) * (3 * IN_MEMORY_BYTES // 251 + 1)
    written = written[: 3 * IN_MEMORY_BYTES]
    body = await filled([written[at : at + 10_007] for at in range(0, len(written), 10_007)], [b"rest"])
    body.cut(*cut)
    pieces = [piece async for piece in sent(body)]
    assert b"".join(pieces) == written[: cut[0]] + written[cut[0] + cut[1] :] + b"rest"
    assert max(map(len, pieces)) <= IN_MEMORY_BYTES
    body.close()


async def test_twenty_megabytes_are_not_held_in_memory():
    piece = b"\x00" * 65536
    tracemalloc.start()
    try:
        body = await filled([piece] * 320)
        body.cut(100, 5)
        size = 0
        async for read in sent(body):
            size += len(read)
        body.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 320 * 65536 - 5
    assert peak < 4 * IN_MEMORY_BYTES


@pytest.fixture
def full_disk():
    """No file of this process grows beyond what a body may hold in memory and a little."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (IN_MEMORY_BYTES + 10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1, 1000, 65536, 2 * IN_MEMORY_BYTES])
async def test_a_disk_that_takes_no_more_is_a_503_and_one_line_in_the_log(full_disk, caplog, size):
    before = open_fds()
    body = await filled([b"x" * IN_MEMORY_BYTES], [b"x" * size] * 20_000)
    with pytest.raises(Overloaded) as caught:
        await held_to_its_end(body)
    body.close()
    assert (caught.value.status, caught.value.code, caught.value.headers) == (503, "spool_full", {"Retry-After": "5"})
    assert [(each.levelname, each.name) for each in caplog.records] == [("WARNING", "gomodel")]
    assert "File too large" in caplog.text
    assert open_fds() == before


modest = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@modest
@given(
    pieces=st.lists(st.binary(max_size=40), max_size=6),
    rest=st.lists(st.binary(min_size=1, max_size=5), max_size=3),
    data=st.data(),
)
async def test_any_pieces_with_any_cut_come_back_as_one_body(monkeypatch, pieces, rest, data):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 64)
    monkeypatch.setattr(spool_module, "_PIECE_BYTES", 7)
    written = b"".join(pieces)
    at = data.draw(st.integers(0, len(written)))
    size = data.draw(st.integers(0, len(written) - at))
    body = await filled(pieces, rest)
    body.cut(at, size)
    left = written[:at] + written[at + size :]
    assert await content(body) == left + b"".join(rest)
    body.close()
