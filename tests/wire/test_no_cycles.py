"""What a connection leaves when it is over: nothing that only the garbage collector would free.

The collector looks rarely, since requests leave nothing to it; thousands of connections that end together would wait
for it with all that they had.
"""

import gc

import pytest

from gomodel.downstream.connection import ClientConnection
from gomodel.downstream.request import Request
from gomodel.relay.exchange import Exchange
from gomodel.telemetry.record import Record
from gomodel.upstream.channel import Channel

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, Reset, Stall, chunked, request, response
from ..harness.verdicts import OK, post, turned

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

EVENT = chunked(b"data: 1\n\n")
# What the instance does, and what the client sends before it leaves.
ANSWERED = {
    "an answer": ((OK,), post()),
    "a stream": ((SSE_HEAD + EVENT + LAST_CHUNK,), post()),
    "an upload in pieces": (
        (OK,),
        request("POST", "/p/vllm/x", [("Transfer-Encoding", "chunked")]) + EVENT + LAST_CHUNK,
    ),
    "a refusal of the instance's": ((response(b"{}", 503),), post()),
    "an answer cut short": ((SSE_HEAD + EVENT, Reset()), post()),
    "an instance that hangs up": ((Fin(),), post()),
    "an unknown model": ((), post(model="other/m")),
    "no JSON": ((), request("POST", "/v1/chat/completions", [("Content-Type", "application/json")], b"{]")),
    "no HTTP": ((), b"GET / HTTP/9\r\n\r\n"),
}


@pytest.fixture
def garbage():
    """What of a connection only the collector would free, from here to when it is asked for."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def found() -> set[str]:
        gc.collect()
        ours = (ClientConnection, Channel, Request, Record, Exchange)
        return {type(each).__name__ for each in gc.garbage if isinstance(each, ours)}

    try:
        yield found
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(("answer", "asked"), ANSWERED.values(), ids=ANSWERED)
async def test_a_connection_that_was_answered_leaves_nothing(gateway, upstream, connect, garbage, answer, asked):
    handle = await gateway(vllm=upstream, HTTP_MAX_RETRIES="0")
    upstream.on_request(*answer)
    client = await connect(handle)
    await client.send(asked)
    await client.read_head("POST")
    client.fin()
    await turned(lambda: not handle.gateway.connections)
    await handle.gateway.close()
    assert garbage() == set()


@pytest.mark.parametrize("begun", [(), (SSE_HEAD + EVENT,)], ids=["before the answer", "in the answer"])
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_leaves_leaves_nothing(gateway, upstream, connect, garbage, begun, how):
    handle = await gateway(vllm=upstream)
    upstream.on_request(*begun, Stall())
    client = await connect(handle)
    await client.send(post())
    await (await upstream.wait_for_request()).done
    if begun:
        await client.read_head("POST")
    getattr(client, how)()
    await turned(lambda: not handle.gateway.connections)
    await handle.gateway.close()
    assert garbage() == set()


@pytest.mark.parametrize(
    "asked", [post(), request("POST", "/p/vllm/x", body=b"x")], ids=["in a line", "one of its own"]
)
async def test_a_request_for_which_there_is_no_connection_leaves_nothing(gateway, upstream, connect, garbage, asked):
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="0")
    upstream.stop_listening()
    client = await connect(handle)
    await client.send(asked)
    assert (await client.read_response("POST")).status == 502
    client.fin()
    await turned(lambda: not handle.gateway.connections)
    await handle.gateway.close()
    assert garbage() == set()
