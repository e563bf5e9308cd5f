"""The spool gives back what was written, without what was cut, then the rest, and holds little of it in memory."""

import resource
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gomodel.downstream import spool as module
from gomodel.downstream.spool import IN_MEMORY_BYTES, Spool
from gomodel.errors import Overloaded

from ...harness.leaks import open_fds


class Pieces:
    """A `Source` made of given pieces, counting what was asked of it."""

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        self._pieces = iter(pieces)
        self.reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        return next(self._pieces, b"")


def filled(pieces: Iterable[bytes], rest: Iterable[bytes] = ()) -> Spool:
    spool = Spool(Pieces(rest))
    for piece in pieces:
        spool.write(piece)
    return spool


async def drained(spool: Spool) -> AsyncIterator[bytes]:
    while piece := await spool.read():
        yield piece


async def content(spool: Spool) -> bytes:
    return b"".join([piece async for piece in drained(spool)])


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
async def test_what_is_cut_is_left_out_of_the_whole_and_of_every_reading(written, cut, left):
    for pieces in ([written], [written[at : at + 1] for at in range(len(written))]):
        with_rest = filled(pieces, [b"re", b"st"])
        with_rest.cut(*cut)
        assert with_rest.in_memory
        assert with_rest.whole() == left
        assert await content(with_rest) == left + b"rest"
        with_rest.close()


async def test_without_a_cut_nothing_is_left_out():
    spool = filled([b"abc", b"def"], [b"ghi"])
    assert spool.whole() == b"abcdef"
    assert await content(spool) == b"abcdefghi"
    spool.close()


@pytest.mark.parametrize("size", [100, 3 * IN_MEMORY_BYTES])
@pytest.mark.parametrize("pieces", [0, 1, 2, 99])
async def test_what_was_read_can_be_read_again_from_the_start(size, pieces):
    spool = filled([b"abc", b"x" * size])
    spool.cut(1, 5)
    for _ in range(pieces):
        await spool.read()
    spool.rewind()
    assert await content(spool) == b"a" + b"x" * (size - 3)
    spool.close()


async def test_the_rest_is_not_asked_for_before_the_spool_is_empty():
    rest = Pieces([b"rest"])
    spool = Spool(rest)
    spool.write(b"abc")
    assert (await spool.read(), rest.reads) == (b"abc", 0)
    assert (await spool.read(), rest.reads) == (b"rest", 1)
    assert (await spool.read(), rest.reads) == (b"", 2)
    spool.close()


@pytest.mark.parametrize(("size", "in_memory"), [(IN_MEMORY_BYTES, True), (IN_MEMORY_BYTES + 1, False)])
def test_a_file_is_opened_for_what_is_over_the_limit_and_closed_with_the_spool(size, in_memory):
    before = open_fds()
    spool = filled([b"x" * (size - 10), b"y" * 10])
    assert spool.in_memory is in_memory
    opened = open_fds() - before
    assert sum(opened.values()) == (0 if in_memory else 1)
    assert all(kind.endswith("(deleted)") for kind in opened)  # so that nothing is left, whatever becomes of us
    spool.close()
    assert open_fds() == before


@pytest.mark.parametrize("cut", [(0, 5), (IN_MEMORY_BYTES - 3, 5), (3 * IN_MEMORY_BYTES - 5, 5)])
async def test_a_long_one_is_read_back_in_pieces_around_the_cut(cut):
    written = bytes(range(251)) * (3 * IN_MEMORY_BYTES // 251 + 1)
    written = written[: 3 * IN_MEMORY_BYTES]
    spool = filled([written[at : at + 10_007] for at in range(0, len(written), 10_007)], [b"rest"])
    spool.cut(*cut)
    pieces = [piece async for piece in drained(spool)]
    assert b"".join(pieces) == written[: cut[0]] + written[cut[0] + cut[1] :] + b"rest"
    assert max(map(len, pieces)) <= IN_MEMORY_BYTES
    spool.close()


async def test_twenty_megabytes_are_not_held_in_memory():
    piece = b"\x00" * 65536
    tracemalloc.start()
    try:
        spool = filled(piece for _ in range(320))
        spool.cut(100, 5)
        size = 0
        async for read in drained(spool):
            size += len(read)
        spool.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 320 * 65536 - 5
    assert peak < 4 * IN_MEMORY_BYTES


@pytest.fixture
def full_disk():
    """No file of this process grows beyond what a spool may hold in memory and a little."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (IN_MEMORY_BYTES + 10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1, 1000, 65536, 2 * IN_MEMORY_BYTES])
def test_a_disk_that_takes_no_more_is_a_503_and_one_line_in_the_log(full_disk, caplog, size):
    before = open_fds()
    spool = Spool(Pieces())
    spool.write(b"x" * IN_MEMORY_BYTES)
    with pytest.raises(Overloaded) as caught:
        deque(map(spool.write, [b"x" * size] * 20_000), maxlen=0)
    spool.close()
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
    monkeypatch.setattr(module, "_PIECE_BYTES", 7)
    written = b"".join(pieces)
    at = data.draw(st.integers(0, len(written)))
    size = data.draw(st.integers(0, len(written) - at))
    spool = filled(pieces, rest)
    spool.cut(at, size)
    left = written[:at] + written[at + size :]
    assert spool.in_memory is (len(written) <= 64)
    assert spool.whole() == left
    assert await content(spool) == left + b"".join(rest)
    spool.close()
