"""The simulated engine: the model it serves, how fast words come, how many requests run."""

import asyncio
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from .errors import ApiError, bad_parameter

VERSION = "0.33.0+simulated"
MAX_MODEL_LEN = 131_072
PACE_HEADER = "x-demo-tokens-per-s"


class Engine:
    """State that all requests of one application share, shown by /metrics."""

    def __init__(self, model: str, tokens_per_s: float) -> None:
        self.model = model
        self.tokens_per_s = tokens_per_s
        self.requests_running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0

    def check_model(self, asked: str | None) -> None:
        """No model, or an empty one, means the served one; raises ApiError for another."""
        if asked and asked != self.model:
            message = f"The model `{asked}` does not exist. Valid aliases: {self.model}."
            raise ApiError(message, status=404, type="NotFoundError", param="model")

    @contextmanager
    def running(self, prompt_tokens: int, generation_tokens: int) -> Iterator[None]:
        """Counts a request as running until the block ends, however it ends."""
        self.requests_running += 1
        self.prompt_tokens += prompt_tokens
        try:
            yield
            self.generation_tokens += generation_tokens
        finally:
            self.requests_running -= 1


ENGINE = web.AppKey("engine", Engine)


class Pace:
    """Lets tokens through at a steady rate, counted from the first, so that slow writing does not add up.

    The rate is in the request's own header, or the engine's; 0 is as fast as possible. Raises ApiError for another.
    """

    def __init__(self, request: web.Request) -> None:
        asked = request.headers.get(PACE_HEADER, str(request.app[ENGINE].tokens_per_s))
        try:
            tokens_per_s = float(asked)
        except ValueError:
            tokens_per_s = math.nan
        if not 0 <= tokens_per_s < math.inf:
            raise bad_parameter(f"{PACE_HEADER} must be a number of tokens per second, got {asked!r}.", PACE_HEADER)
        self._seconds_per_token = 1 / tokens_per_s if tokens_per_s else 0.0
        self._due: float | None = None

    async def advance(self, tokens: int) -> None:
        """Wait for so many more of them."""
        now = asyncio.get_running_loop().time()
        self._due = (now if self._due is None else self._due) + tokens * self._seconds_per_token
        await asyncio.sleep(max(0.0, self._due - now))


def random_id() -> str:
    """Sixteen hex digits, vLLM's idea of a unique id."""
    return uuid.uuid4().hex[:16]


def request_id(request: web.Request) -> str:
    """The caller's X-Request-Id, which vLLM repeats in the id of every chunk, or a new one."""
    return request.headers.get("X-Request-Id") or random_id()
