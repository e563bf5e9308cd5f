"""The routes of the simulated vLLM, its key, and the shape of its errors.

Run it with `handler_cancellation=True`, so that a request ends at once when its client leaves.
"""

import hmac
import sys

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from . import audio, chat, completions, embeddings, messages, realtime, responses, status
from .engine import ENGINE, Engine
from .errors import ApiError, dumps

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")  # vLLM's key covers these prefixes and nothing else

_GET: dict[str, Handler] = {
    "/health": status.health,
    "/metrics": status.metrics,
    "/ping": status.health,
    "/v1/models": status.models,
    "/v1/realtime": realtime.realtime,
    "/v1/responses/{id}": responses.retrieve,
    "/version": status.version,
}

_POST: dict[str, Handler] = {
    "/detokenize": status.detokenize,
    "/ping": status.health,
    "/tokenize": status.tokenize,
    "/v1/audio/transcriptions": audio.transcribe,
    "/v1/audio/translations": audio.transcribe,
    "/v1/chat/completions": chat.chat_completions,
    "/v1/completions": completions.completions,
    "/v1/embeddings": embeddings.embeddings,
    "/v1/messages": messages.create,
    "/v1/messages/count_tokens": messages.count_tokens,
    "/v1/responses": responses.create,
    "/v1/responses/{id}/cancel": responses.cancel,
}


def build_app(
    *, model: str = "demo/llama-sim", tokens_per_s: float = 25.0, api_key: str | None = None
) -> web.Application:
    """A simulated vLLM that serves `model`.

    `tokens_per_s` is the pace of one stream, 0 as fast as possible. `api_key`, when given, is wanted as a bearer token
    below /v1, /v2, /inference and /cohere only, as in vLLM. Raises ValueError for a pace that is none.
    """
    if not 0 <= tokens_per_s < float("inf"):
        raise ValueError("tokens_per_s must be zero or a positive number")
    app = web.Application(client_max_size=sys.maxsize, middlewares=[_errors, _key(api_key)])  # vLLM limits no body
    app[ENGINE] = Engine(model, tokens_per_s)
    app.cleanup_ctx.append(responses.store_context)
    app.on_response_prepare.append(_uvicorn)
    for path, get in _GET.items():
        app.router.add_get(path, get, allow_head=False)  # HEAD is 405 in vLLM
    for path, post in _POST.items():
        app.router.add_post(path, post)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as vLLM words it."""
    try:
        return await handler(request)
    except ApiError as error:
        anthropic = request.path.startswith("/v1/messages")
        return _json(error.anthropic_body() if anthropic else error.body(), error.status)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        error.body, error.content_type = dumps({"detail": error.reason}), "application/json"
        raise


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


async def _uvicorn(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "uvicorn"


def _json(value: object, status_code: int) -> web.Response:
    return web.Response(body=dumps(value), status=status_code, content_type="application/json")
