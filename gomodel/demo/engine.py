"""The simulated engine: which models it serves, how fast words come, how many requests run.

Decides served names, the pace, the counters that /metrics shows and how a request is named. Knows nothing of what
is said or of routes.
"""

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web

from .errors import ModelNotFound, bad_parameter

VERSION = "0.33.0+simulated"
FINGERPRINT = "vllm-0.33.0-simulated"
MAX_MODEL_LEN = 131_072
PACE_HEADER = "x-demo-tokens-per-s"


class Engine:
    """State that all requests of one application share."""

    def __init__(self, model: str, extra_models: tuple[str, ...], tokens_per_s: float) -> None:
        self.model = model
        self.extra_models = extra_models
        self.tokens_per_s = tokens_per_s
        self.requests_running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()

    def served(self, asked: str | None, *, pooling: bool = False) -> str:
        """The name under which the answer comes; no model, or an empty one, is the first. Raises ModelNotFound.

        Further models behave like LoRA adapters: each answers under its own name. `pooling` routes of vLLM do not
        list the names.
        """
        if not asked:
            return self.model
        if asked != self.model and asked not in self.extra_models:
            raise ModelNotFound(asked, None if pooling else (self.model, *self.extra_models))
        return asked

    @contextmanager
    def running(self, prompt_tokens: int) -> Iterator[None]:
        """Counts a request as running until the block ends, however it ends."""
        self.requests_running += 1
        self.prompt_tokens += prompt_tokens
        try:
            yield
        finally:
            self.requests_running -= 1


ENGINE = web.AppKey("engine", Engine)


class Pace:
    """Lets tokens through at a steady rate, counted from the first, so that slow writing does not add up."""

    def __init__(self, engine: Engine, tokens_per_s: float) -> None:
        self._engine = engine
        self._seconds_per_token = 1 / tokens_per_s if tokens_per_s else 0.0
        self._due: float | None = None

    async def advance(self, tokens: Sequence[int]) -> None:
        """Wait until choices that generate side by side may show so many more `tokens` each."""
        now = asyncio.get_running_loop().time()
        self._due = (now if self._due is None else self._due) + max(tokens) * self._seconds_per_token
        await asyncio.sleep(max(0.0, self._due - now))
        self._engine.generation_tokens += sum(tokens)


def pace(request: web.Request) -> Pace:
    """The pace of this request: its own header, or the engine's; 0 is as fast as possible. Raises BadRequest."""
    engine = request.app[ENGINE]
    asked = request.headers.get(PACE_HEADER)
    if asked is None:
        return Pace(engine, engine.tokens_per_s)
    try:
        tokens_per_s = float(asked)
    except ValueError:
        tokens_per_s = math.nan
    if not 0 <= tokens_per_s < math.inf:
        raise bad_parameter(f"{PACE_HEADER} must be a number of tokens per second, got {asked!r}.", PACE_HEADER)
    return Pace(engine, tokens_per_s)


def random_id() -> str:
    """Sixteen hex digits, vLLM's idea of a unique id."""
    return uuid.uuid4().hex[:16]


def request_id(request: web.Request) -> str:
    """The caller's X-Request-Id, which vLLM repeats in the id of every chunk, or a new one."""
    return request.headers.get("X-Request-Id") or random_id()
