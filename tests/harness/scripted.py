"""The one import of a test that is about bytes: a scripted upstream, a raw client and the bytes to feed them.

    async def test_a_truncated_body_never_looks_complete(gateway, upstream, connect):
        upstream.on_request(head(200, [("Content-Length", "10")]), b"12345", Fin())
        client = await connect(await gateway(vllm=upstream))
        await client.send(request("GET", "/p/vllm/tokenize"))
        response = await client.read_response()
        assert (response.body, response.complete) == (b"12345", False)

The fixtures are in conftest.py. Awaiting something that does not happen fails the test after SAFETY_S.
"""

from .client import RawClient, Truncated, request
from .connection import Connection, Request
from .gateway import GatewayHandle, env_for
from .leaks import Inventory, Records
from .oracles import Message, RequestMessage, ResponseMessage, head_problems
from .steps import (
    LAST_CHUNK,
    SSE_HEAD,
    Close,
    CloseWhenIdle,
    Dribble,
    Fin,
    ReadBody,
    ReadHead,
    ReadRequest,
    Repeat,
    Reset,
    Send,
    SendByteByByte,
    SendPieces,
    Set,
    Stall,
    WaitFor,
    chunked,
    head,
    json_response,
    response,
    sse,
    sse_event,
)
from .upstream import ScriptedUpstream
from .wire import SAFETY_S, HarnessTimeout, PeerGone, Signal, Wire, let_peers_run

__all__ = [
    "LAST_CHUNK",
    "SAFETY_S",
    "SSE_HEAD",
    "Close",
    "CloseWhenIdle",
    "Connection",
    "Dribble",
    "Fin",
    "GatewayHandle",
    "HarnessTimeout",
    "Inventory",
    "Message",
    "PeerGone",
    "RawClient",
    "ReadBody",
    "ReadHead",
    "ReadRequest",
    "Records",
    "Repeat",
    "Request",
    "RequestMessage",
    "Reset",
    "ResponseMessage",
    "ScriptedUpstream",
    "Send",
    "SendByteByByte",
    "SendPieces",
    "Set",
    "Signal",
    "Stall",
    "Truncated",
    "WaitFor",
    "Wire",
    "chunked",
    "env_for",
    "head",
    "head_problems",
    "json_response",
    "let_peers_run",
    "request",
    "response",
    "sse",
    "sse_event",
]
