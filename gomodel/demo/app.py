"""The routes of the simulated vLLM, and what holds for all of them.

Decides which path answers, the key, the shape of errors and the headers that uvicorn sends. Knows nothing of bodies.
Run it with `handler_cancellation=True`, so that a request ends at once when its client leaves.
"""

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from . import audio, chat, completions, messages, pooling, realtime, responses, status, tokenizing
from .engine import ENGINE, Engine
from .errors import ApiError, Unparsable, ValidationFailed, dumps
from .response_store import store_context
from .wire import refuse_if_ordered

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")  # vLLM's key covers these prefixes and nothing else

_GET: dict[str, Handler] = {
    "/health": status.health,
    "/load": status.load,
    "/metrics": status.metrics,
    "/ping": status.health,
    "/v1/models": status.models,
    "/v1/realtime": realtime.realtime,
    "/v1/responses/{id}": responses.retrieve,
    "/version": status.version,
}

_POST: dict[str, Handler] = {
    "/classify": pooling.classify,
    "/detokenize": tokenizing.detokenize,
    "/ping": status.health,
    "/pooling": pooling.pooling,
    "/rerank": pooling.rerank,
    "/score": pooling.score,
    "/tokenize": tokenizing.tokenize,
    "/v1/audio/transcriptions": audio.handler("transcription"),
    "/v1/audio/translations": audio.handler("translation"),
    "/v1/chat/completions": chat.chat_completions,
    "/v1/completions": completions.completions,
    "/v1/embeddings": pooling.embeddings,
    "/v1/messages": messages.create,
    "/v1/messages/count_tokens": messages.count_tokens,
    "/v1/rerank": pooling.rerank,
    "/v1/responses": responses.create,
    "/v1/responses/{id}/cancel": responses.cancel,
    "/v1/score": pooling.score,
    "/v2/embed": pooling.cohere_embed,
    "/v2/rerank": pooling.rerank,
}


def build_app(
    *,
    model: str = "demo/llama-sim",
    extra_models: tuple[str, ...] = (),
    tokens_per_s: float = 25.0,
    api_key: str | None = None,
) -> web.Application:
    """A simulated vLLM that serves `model`.

    `extra_models` stand beside it like LoRA adapters: each answers under its own name. `tokens_per_s` is the pace of
    one stream, 0 as fast as possible. `api_key`, when given, is wanted as a bearer token below /v1, /v2, /inference
    and /cohere only, as in vLLM. Needs a runner with `handler_cancellation=True`. Raises ValueError for a pace that
    is none.
    """
    if not 0 <= tokens_per_s < float("inf"):
        raise ValueError("tokens_per_s must be zero or a positive number")
    # vLLM has no limit for bodies, hence 0
    app = web.Application(client_max_size=0, middlewares=[_errors, _key(api_key), _faults])
    app[ENGINE] = Engine(model, extra_models, tokens_per_s)
    app.cleanup_ctx.append(store_context)
    app.on_response_prepare.append(_uvicorn_headers)
    for path, get in _GET.items():
        app.router.add_get(path, get, allow_head=False)  # HEAD is 405 in vLLM
    for path, post in _POST.items():
        app.router.add_post(path, post)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as vLLM words it. On the Anthropic routes only validation keeps OpenAI's shape."""
    try:
        return await handler(request)
    except ApiError as error:
        anthropic = request.path.startswith("/v1/messages") and not isinstance(error, ValidationFailed)
        return _json(error.anthropic_body() if anthropic else error.body(), error.status)
    except Unparsable as error:
        return _json({"detail": error.detail}, error.status)
    except web.HTTPNotFound:
        redirect = await _without_slash(request)
        return redirect or _json({"detail": "Not Found"}, 404)
    except web.HTTPMethodNotAllowed as error:
        response = _json({"detail": "Method Not Allowed"}, 405)
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response


async def _without_slash(request: web.Request) -> web.Response | None:
    """Starlette answers a path with a slash too many by a 307 to the absolute URL without it."""
    path = request.rel_url.raw_path
    if path == "/" or not path.endswith("/"):
        return None
    target = request.rel_url.with_path(path[:-1], encoded=True, keep_query=True)
    match = await request.app.router.resolve(request.clone(rel_url=target))
    if isinstance(match.http_exception, web.HTTPNotFound):
        return None
    return web.Response(status=307, headers={"Location": f"{request.scheme}://{request.host}{target}"})


def _key(api_key: str | None) -> Middleware:
    """Only `Authorization: Bearer` counts; unknown paths below the guarded prefixes are 401 too."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is not None and request.method != "OPTIONS" and request.path.startswith(_GUARDED):
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            same = hmac.compare_digest(given.encode("utf-8", "surrogateescape"), api_key.encode())
            if scheme.lower() != "bearer" or not same:
                return _json({"error": "Unauthorized"}, 401)
        return await handler(request)

    return check


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ordered refusals hit what vLLM would do work for, never /health and its like."""
    if request.method == "POST":
        refuse_if_ordered(request)
    return await handler(request)


async def _uvicorn_headers(request: web.Request, response: web.StreamResponse) -> None:
    """uvicorn's name and lower-case field names, and the Vary of vLLM's CORS layer, which the key stands before."""
    headers = response.headers
    headers["Server"] = "uvicorn"
    if response.status not in (101, 401):
        headers["Vary"] = "Origin"
    fields = [(name.lower(), value) for name, value in headers.items()]
    headers.clear()
    headers.extend(fields)


def _json(value: object, status_code: int) -> web.Response:
    return web.Response(body=dumps(value), status=status_code, content_type="application/json")
