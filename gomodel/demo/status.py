"""What a server says about itself: models, health, version, metrics, load.

Decides the fields of these answers. Knows nothing of inference.
"""

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .engine import ENGINE, MAX_MODEL_LEN, VERSION, random_id
from .errors import dumps


async def models(request: web.Request) -> web.Response:
    """GET /v1/models: `created` is now and the permission is random on every call, as vLLM does it.

    Further models stand there like LoRA adapters: with a parent and without a length.
    """
    engine = request.app[ENGINE]
    now = int(time.time())
    cards = [_card(engine.model, now, parent=None, max_model_len=MAX_MODEL_LEN)]
    cards += [_card(name, now, parent=engine.model, max_model_len=None) for name in engine.extra_models]
    return _json({"object": "list", "data": cards})


def _card(name: str, now: int, *, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-{random_id()}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    card = {"id": name, "object": "model", "created": now, "owned_by": "vllm", "root": name, "parent": parent}
    return {**card, "max_model_len": max_model_len, "permission": [permission]}


async def health(request: web.Request) -> web.Response:
    """GET /health, GET and POST /ping: 200 with nothing in it."""
    return web.Response()


async def version(request: web.Request) -> web.Response:
    """GET /version: the version whose wire this is, marked as a simulation."""
    return _json({"version": VERSION})


async def load(request: web.Request) -> web.Response:
    """GET /load, as with vLLM's --enable-server-load-tracking: requests that are running."""
    return _json({"server_load": request.app[ENGINE].requests_running})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: the few of vLLM's metrics that routers and tests look at."""
    engine = request.app[ENGINE]
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Mapping[str, float]) -> None:
        lines.append(f"# HELP {name} {text}")
        lines.append(f"# TYPE {name} {kind}")
        for labels, value in samples.items():
            lines.append(f'{name}{{engine="0",model_name="{engine.model}"{labels}}} {float(value)}')

    running = engine.requests_running
    family("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", {"": running})
    family("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", {"": 0})
    awake = {',sleep_state="awake"': 1, ',sleep_state="weights_offloaded"': 0, ',sleep_state="discard_all"': 0}
    family("vllm:engine_sleep_state", "gauge", "Engine sleep state; awake = 1 means engine is awake.", awake)
    family("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", {"": 0})
    family("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", {"": engine.prompt_tokens})
    generated = {"": engine.generation_tokens}
    family("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", generated)
    finished = {f',finished_reason="{reason}"': engine.finished[reason] for reason in ("stop", "length", "abort")}
    family("vllm:request_success_total", "counter", "Count of successfully processed requests.", finished)
    text = "\n".join(lines) + "\n"
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"})


def _json(value: object) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json")
