"""What every test about failures asks for: the request, gomodel's own answer, the counters, and that nothing leaked.

Knows the contract's error shapes and nothing of which fault was made.
"""

import asyncio
import json
import re
from typing import Any

from .scripted import SAFETY_S, GatewayHandle, RawClient, ResponseMessage, ScriptedUpstream, request, response

# Put into whatever an upstream sends that is not an answer: it must reach neither a client nor the log.
CANARY = "canary-6b1f"
OK = response(b'{"id":"ok"}', 200, [("Content-Type", "application/json")])
# A connection that was kept by mistake must not be closed as idle before a test looks.
KEPT = {"HTTP_UPSTREAM_KEEPALIVE": "60s"}
CHAT = "/v1/chat/completions"


def post(path: str = CHAT, *, model: str = "vllm/m", headers: Any = ()) -> bytes:
    """A whole inference request."""
    fields = [("Content-Type", "application/json"), *headers]
    return request("POST", path, fields, body=json.dumps({"model": model, "stream": True}).encode())


async def ask(client: RawClient, raw: bytes | None = None, method: str = "GET") -> ResponseMessage:
    """Send a request and read all of its answer."""
    await client.send(raw if raw is not None else post())
    return await client.read_response(method)


async def turned(condition: Any) -> None:
    """Wait until the condition holds; it is looked at often, and fails the test when it does not come true."""
    async with asyncio.timeout(SAFETY_S):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.001)


def served(upstream: ScriptedUpstream) -> list[int]:
    """How many requests each connection carried, in the order they were opened; gomodel's own questions aside."""
    counts = (sum(not each.is_probe for each in connection.requests) for connection in upstream.connections)
    return [count for count in counts if count]


async def counted(handle: GatewayHandle, expected: int) -> dict[int, int]:
    """gomodel_requests_total by status, once `expected` requests have ended."""
    requests = handle.gateway.telemetry.requests
    await turned(lambda: sum(series.count for series in requests.values()) >= expected)
    by_status: dict[int, int] = {}
    for (_, _, _, status), series in requests.items():
        by_status[status] = by_status.get(status, 0) + series.count
    return by_status


async def aborted(handle: GatewayHandle, requests: int = 1) -> dict[tuple[str, str], int]:
    """gomodel_aborted_total by (who, phase), once that many requests have ended."""
    await counted(handle, requests)
    return {(by, phase.name.lower()): count for (by, phase), count in handle.gateway.telemetry.aborted.items()}


def access_lines(handle: GatewayHandle) -> list[dict[str, Any]]:
    """What the access log says of each request that ended."""
    return [vars(each)["fields"] for each in handle.logs.records if each.name == "gomodel.access"]


def own_error(answer: ResponseMessage, status: int, code: str, kind: str = "upstream_error") -> str:
    """Assert that this is gomodel's own error in the contract's one shape; returns its message."""
    assert (answer.status, answer.complete, answer.malformed) == (status, True, None), answer.raw[:500]
    assert answer.get("Content-Type") == "application/json"
    assert answer.get("X-Request-Id")
    document = answer.json()
    assert list(document) == ["error"]
    error = document["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, None, code)
    assert sorted(error) == ["code", "message", "param", "type"]
    return str(error["message"])


def shows(text: str, address: int | str) -> bool:
    """Whether a port or the path of a socket stands in it. Five digits within a request id or a number are no port."""
    if isinstance(address, str) and not address.isdigit():
        return address in text
    return re.search(rf"(?<![0-9a-f.]){address}(?![0-9a-f])", text) is not None


def tells_nothing(handle: GatewayHandle, answer: ResponseMessage, upstream: ScriptedUpstream | None = None) -> None:
    """Neither client nor log learned what the upstream sent or where it lives, nor the text of an exception."""
    logged = handle.logs.text
    for text in (answer.raw.decode("latin-1"), logged):
        assert CANARY not in text
        assert "Traceback" not in text
    shown = answer.raw.decode("latin-1")
    for private in ("Errno", "aiohttp", "127.0.0.1"):
        assert private not in shown
    assert upstream is None or not shows(shown, upstream.address)
