"""How the tests of the simulated vLLM ask and read: constants, JSON and event streams."""

import json
from typing import Any

from aiohttp.test_utils import TestClient

MODEL = "demo/llama-sim"
ASK = [{"role": "user", "content": "Tell me about rivers."}]
CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}, "note": {"type": "string"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}


async def post(client: TestClient[Any, Any], path: str, body: Any, status: int = 200) -> Any:
    async with client.post(path, json=body) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def events(client: TestClient[Any, Any], path: str, body: Any, **kwargs: Any) -> list[str]:
    """The events of a stream, each checked to be a chunk of its own."""
    async with client.post(path, json=body, **kwargs) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "Cache-Control" not in response.headers
        parts: list[bytes] = []
        chunk = b""
        async for data, ends in response.content.iter_chunks():
            chunk += data
            if ends:
                parts.append(chunk)
                chunk = b""
    assert all(part.endswith(b"\n\n") and part.count(b"\n\n") == 1 for part in parts)
    return [part.decode()[:-2] for part in parts]


def datas(found: list[str]) -> list[Any]:
    return [json.loads(event.partition("data: ")[2]) for event in found if event != "data: [DONE]"]
