"""How a body is written: what `framing` reads back, and no more or less than was declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.http1 import framing
from gomodel.http1.writers import Chunked, Sized, UntilClose, WrongLength

PIECES = st.lists(st.binary(max_size=300), min_size=1, max_size=6)


def written(writer, pieces):
    """All that goes out for `pieces`, of which the last is the end."""
    return b"".join(writer.write(piece, at == len(pieces)) for at, piece in enumerate(pieces, 1))


@given(PIECES)
def test_chunks_are_read_back_whole_whatever_pieces_they_were_and_an_empty_one_ends_nothing(pieces):
    body = framing.Chunked(strict=True)
    assert body.feed(written(Chunked(), pieces)) == b"".join(pieces)
    assert (body.complete, body.rest) == (True, b"")


@given(PIECES)
def test_a_sized_body_and_one_until_close_are_their_payload(pieces):
    payload = b"".join(pieces)
    assert written(Sized(len(payload)), pieces) == written(UntilClose(), pieces) == payload


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (3, [b"ab"]),
        (3, [b"abcd"]),
        (3, [b"ab", b""]),
        (3, [b"ab", b"cd"]),
        (3, [b"abc", b"d"]),
        (0, [b"a"]),
        (1, [b""]),
    ],
)
def test_a_sized_body_is_never_longer_or_shorter_than_declared(length, pieces):
    with pytest.raises(WrongLength):
        written(Sized(length), pieces)


def test_too_much_is_found_out_before_the_end_and_not_written():
    writer = Sized(3)
    assert writer.write(b"ab", False) == b"ab"
    with pytest.raises(WrongLength):
        writer.write(b"cd", False)


@pytest.mark.parametrize("piece", [b"", b"a"])
@pytest.mark.parametrize("last", [True, False])
def test_nothing_follows_the_last_chunk(piece, last):
    writer = Chunked()
    assert writer.write(b"a", True) == b"1\r\na\r\n0\r\n\r\n"
    with pytest.raises(WrongLength):
        writer.write(piece, last)


@pytest.mark.parametrize("size", [1, 4095, 4096, 70_000])
def test_a_chunk_in_parts_is_the_same_chunk(size):
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    writer = Chunked()
    assert b"".join(writer.parts(payload)) == Chunked().write(payload, False)
    assert any(part is payload for part in writer.parts(payload)) is (size >= 4096)
    writer.write(b"", True)
    with pytest.raises(WrongLength):
        writer.parts(payload)


def test_a_chunk_around_pieces_is_never_the_last_one():
    writer = Chunked()
    assert b"".join(writer.around([memoryview(b"ab"), memoryview(b"c")], 3)) == b"3\r\nabc\r\n"
    assert writer.around([], 0) == []
    assert writer.around([memoryview(b"")], 0) == []
