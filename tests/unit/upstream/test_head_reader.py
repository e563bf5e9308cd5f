"""What is known of one answer's head is not changed by the next one."""

import asyncio

import pytest

from gomodel.upstream.head_reader import HeadReader


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_an_answer_that_is_withheld_keeps_its_length_whatever_comes_over_its_connection(status):
    loop = asyncio.get_running_loop()
    heads = HeadReader(loop, "vllm")
    first = heads.read(b"HTTP/1.1 %d No\r\nContent-Length: 5\r\n\r\n" % status, False)
    second = heads.read(b"HTTP/1.1 %d No\r\nContent-Length: 7\r\n\r\n" % status, False)
    assert first is not None
    assert second is not None
    assert (first.fields.length, second.fields.length) == (5, 7)


async def test_a_head_that_comes_again_is_known_with_its_other_length():
    loop = asyncio.get_running_loop()
    heads = HeadReader(loop, "vllm")
    written = []
    for length in (5, 5, 7, 5):
        head = heads.read(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: %d\r\nX-A: b\r\n\r\n" % length, False)
        assert head is not None
        assert (head.fields.length, head.fields.lengths) == (length, [b"%d" % length])
        written.append(head.fields.written)
    line = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: %d\r\nX-A: b\r\n"
    assert written == [line % 5, line % 5, line % 7, line % 5]
