"""Several simulated vLLM servers, each with a prefix cache of its own: `python -m bench.replicas 4 70000`.

Prints the ports. Each answers POST */chat/completions with one JSON body after the time that it takes to prefill what
of the prompt is not in its cache, one prompt at a time, and then to generate. `usage` says how many tokens were in the
cache, and `system_fingerprint` which server it was, so a client can tell through any proxy. The cache is blocks in a
chain, as vLLM's is, the ones not used for longest dropped first. GET /reset on any empties all.
"""

import asyncio
import sys
from collections import OrderedDict

from aiohttp import web

TOKEN_CHARS = 4
BLOCK_TOKENS = 16
PREFILL_TOKENS_S = 20_000
DECODE_S = 0.02
MODEL = "m/x"


class Engine:
    """One server: what it has cached, and until when it is busy."""

    def __init__(self, name: str, capacity_tokens: int) -> None:
        self.name = name
        self._capacity = capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._free_at = 0.0

    def reset(self) -> None:
        """Forget everything."""
        self._blocks.clear()

    def take(self, text: str) -> tuple[int, int]:
        """Prompt tokens, and those of them that were cached; all of the prompt is cached from now on."""
        size = TOKEN_CHARS * BLOCK_TOKENS
        blocks = self._blocks
        cached, chain, hit = 0, 0, True
        for start in range(0, len(text) - size + 1, size):
            chain = hash((chain, text[start : start + size]))
            hit = hit and chain in blocks
            cached += hit
            blocks[chain] = None
            blocks.move_to_end(chain)
        while len(blocks) > self._capacity:
            blocks.popitem(last=False)
        return len(text) // TOKEN_CHARS, cached * BLOCK_TOKENS

    async def prefill(self, tokens: int) -> None:
        """Wait for those before it, and for as long as it takes."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + tokens / PREFILL_TOKENS_S
        await asyncio.sleep(self._free_at - now)


def _app(engine: Engine, engines: list[Engine]) -> web.Application:
    async def chat(request: web.Request) -> web.Response:
        messages = (await request.json())["messages"]
        tokens, cached = engine.take("".join(each["role"] + each["content"] for each in messages))
        await engine.prefill(tokens - cached)
        await asyncio.sleep(DECODE_S)
        message = {"role": "assistant", "content": "Yes."}
        usage = {
            "prompt_tokens": tokens,
            "completion_tokens": 2,
            "total_tokens": tokens + 2,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1760000000,
                "model": MODEL,
                "choices": [choice],
                "system_fingerprint": engine.name,
                "usage": usage,
            }
        )

    async def models(_request: web.Request) -> web.Response:
        entry = {"id": MODEL, "object": "model", "created": 1760000000, "owned_by": "vllm", "max_model_len": 131072}
        return web.json_response({"object": "list", "data": [entry]})

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    async def reset(_request: web.Request) -> web.Response:
        for each in engines:
            each.reset()
        return web.Response()

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    app.router.add_get("/reset", reset)
    return app


async def _serve(count: int, capacity_tokens: int) -> None:
    engines = [Engine(f"replica-{number}", capacity_tokens) for number in range(count)]
    ports = []
    for engine in engines:
        runner = web.AppRunner(_app(engine, engines), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        ports.append(runner.addresses[0][1])
    sys.stdout.write(" ".join(map(str, ports)) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
