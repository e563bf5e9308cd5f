"""A gateway that did not run for a while blames nobody else for it."""

import asyncio
import time

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, WaitFor, chunked
from ..harness.verdicts import aborted, post


async def test_a_process_that_stood_still_does_not_take_that_for_the_instances_silence(gateway, upstream, connect):
    """As after a pause of the machine: what arrived meanwhile waits in the kernel."""
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), LAST_CHUNK)
    handle = await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="200ms")
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await client.read_body_until(b"data: 1\n\n")
    upstream.requests[0].connection.wire._sock.send(chunked(b"data: 2\n\n"))
    time.sleep(0.4)  # noqa: ASYNC251 - the point of it
    go_on.set()
    answer = await client.read_rest()
    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    assert await aborted(handle) == {}
