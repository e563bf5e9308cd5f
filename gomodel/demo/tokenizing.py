"""POST /tokenize and /detokenize: the simulation's tokens, which the usage numbers of every route count.

Decides the fields of both. Knows nothing of how text is split.
"""

from aiohttp import web

from . import tokens
from .body import optional, read_json, required
from .chat import FIELDS as CHAT_FIELDS
from .chat import conversation_of
from .engine import ENGINE, MAX_MODEL_LEN
from .errors import ValidationFailed
from .wire import send_json

TOKENIZE_FIELDS = {
    **CHAT_FIELDS,
    "messages": optional("list"),
    "prompt": optional("str"),
    "return_token_strs": optional("bool"),
}
DETOKENIZE_FIELDS = {"model": optional("str"), "tokens": required("list")}


async def tokenize(request: web.Request) -> web.StreamResponse:
    """The token ids of a prompt, or of a conversation as the chat route would read it."""
    body = await read_json(request, TOKENIZE_FIELDS)
    request.app[ENGINE].served(body["model"])
    if body["prompt"] is None and body["messages"] is None:
        raise ValidationFailed(
            [
                {"type": "missing", "loc": f"body.{name}", "msg": "Field required", "input": body}
                for name in ("prompt", "messages")
            ]
        )
    text = body["prompt"] if body["prompt"] is not None else conversation_of(body).prompt
    ids = tokens.encode(text)
    strings = list(tokens.split(text)) if body["return_token_strs"] else None
    return await send_json(
        request, {"count": len(ids), "max_model_len": MAX_MODEL_LEN, "tokens": ids, "token_strs": strings}
    )


async def detokenize(request: web.Request) -> web.StreamResponse:
    """The text of token ids."""
    body = await read_json(request, DETOKENIZE_FIELDS)
    request.app[ENGINE].served(body["model"])
    for index, token in enumerate(body["tokens"]):
        if type(token) is not int or not 0 <= token < 2**63:
            message = "Input should be a valid integer"
            raise ValidationFailed(
                [{"type": "int_type", "loc": f"body.tokens.{index}", "msg": message, "input": token}]
            )
    return await send_json(request, {"prompt": tokens.decode(body["tokens"])})
