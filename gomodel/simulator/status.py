"""What a server tells without inference: health, version, models, metrics, and what the tokens of a text are."""

import time

from aiohttp import web

from . import tokens
from .body import read_json
from .chat import conversation_of
from .engine import ENGINE, MAX_MODEL_LEN, VERSION, random_id
from .errors import ValidationFailed
from .wire import send_json

_METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{labels} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{labels} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{labels} 0.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{labels} {prompt}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{labels} {generation}
"""


async def health(request: web.Request) -> web.StreamResponse:
    """GET /health and /ping: 200 with nothing in it."""
    return web.Response()


async def version(request: web.Request) -> web.StreamResponse:
    """GET /version: the version whose wire this is, marked as a simulation."""
    return await send_json(request, {"version": VERSION})


async def models(request: web.Request) -> web.StreamResponse:
    """GET /v1/models: `created` is now and the permission is random on every call, as vLLM does it."""
    name, now = request.app[ENGINE].model, int(time.time())
    permission = {"id": f"modelperm-{random_id()}", "object": "model_permission", "created": now, "organization": "*"}
    card = {"id": name, "object": "model", "created": now, "owned_by": "vllm", "root": name, "parent": None}
    card |= {"max_model_len": MAX_MODEL_LEN, "permission": [permission]}
    return await send_json(request, {"object": "list", "data": [card]})


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics: the few of vLLM's metrics that routers and tests look at."""
    engine = request.app[ENGINE]
    text = _METRICS.format(
        labels=f'{{engine="0",model_name="{engine.model}"}}',
        running=float(engine.requests_running),
        prompt=float(engine.prompt_tokens),
        generation=float(engine.generation_tokens),
    )
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"})


async def tokenize(request: web.Request) -> web.StreamResponse:
    """POST /tokenize: the token ids of a prompt, or of a conversation as the chat route would read it."""
    body = await read_json(request)
    if body["prompt"] is None and body["messages"] is None:
        raise ValidationFailed("body.prompt", "missing", "Field required")
    text = conversation_of(body).prompt if body["prompt"] is None else str(body["prompt"])
    ids = tokens.encode(text)
    return await send_json(request, {"count": len(ids), "max_model_len": MAX_MODEL_LEN, "tokens": ids})


async def detokenize(request: web.Request) -> web.StreamResponse:
    """POST /detokenize: the text of token ids."""
    body = await read_json(request, "tokens")
    if not all(type(token) is int for token in body["tokens"]):
        raise ValidationFailed("body.tokens", "int_type", "Input should be a valid integer")
    return await send_json(request, {"prompt": tokens.decode(body["tokens"])})
