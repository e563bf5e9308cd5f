"""What a server says of itself by which replicas are compared: version, chat template, a greedy answer.

Decides how each is asked and what of the answer counts; one that does not have a route, or does not generate, says
nothing, and nothing is concluded. Knows nothing of when it is asked or of the others.
"""

import json
from hashlib import blake2b
from typing import Any

from .own_requests import FAILURES, ask
from .replica import Replica

# A short answer of an engine with a queue in front may take as long.
_LIMIT_S = 30.0
_LIMIT_BYTES = 256 << 10
_CHAT = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three plus four?"},
]
_PROMPT = "One, two, three, four,"
_TOKENS = 8


class Unreachable(Exception):
    """It could not be asked now."""


async def version(replica: Replica) -> dict[str, str]:
    """Its `version`, where it says it. Raises Unreachable."""
    return _texts(await _asked(replica, "/version"), "version")


async def chat_template(replica: Replica, model: str) -> dict[str, str]:
    """A mark of the tokens that its `chat_template` makes of a fixed chat. Raises Unreachable."""
    body = {"model": model, "messages": _CHAT, "add_generation_prompt": True}
    tokens = (await _asked(replica, "/tokenize", body)).get("tokens")
    return {"chat_template": _mark(tokens)} if isinstance(tokens, list) and tokens else {}


async def greedy(replica: Replica, model: str) -> dict[str, str]:
    """A mark of its `greedy` answer of a few tokens, and its `system_fingerprint` where it says one.

    Raises Unreachable.
    """
    body = {"model": model, "prompt": _PROMPT, "max_tokens": _TOKENS, "temperature": 0, "seed": 0}
    said = await _asked(replica, "/completions", body, at_root=False)
    found = _texts(said, "system_fingerprint")
    choices = said.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        text = choices[0].get("text")
        if isinstance(text, str):
            found["greedy"] = _mark(text)
    return found


def _texts(said: dict[str, Any], *names: str) -> dict[str, str]:
    return {name: said[name][:100] for name in names if isinstance(said.get(name), str) and said[name]}


def _mark(said: Any) -> str:
    """Short, the same for the same, and not to be read: what a model makes of a text is nobody's business."""
    return blake2b(json.dumps(said).encode(), digest_size=4).hexdigest()


async def _asked(replica: Replica, path: str, body: Any = None, *, at_root: bool = True) -> dict[str, Any]:
    """The JSON object that it answers; an empty one for any other answer. Raises Unreachable."""
    encoded = None if body is None else json.dumps(body).encode()
    try:
        async with ask(replica, path, limit_s=_LIMIT_S, at_root=at_root, body=encoded) as response:
            status, text = response.status, b""
            while status == 200 and len(text) < _LIMIT_BYTES and (piece := await response.content.read(_LIMIT_BYTES)):
                text += piece
    except (TimeoutError, *FAILURES):
        raise Unreachable from None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
