"""Conversations of several turns, as many at once as there are: what of their prompts came from a cache, and how soon.

Decides what is said and by whom: every other conversation names its session in a header, the others nothing. Each has
a connection of its own to every gateway, and takes the gateways in turn. Knows nothing of proxies.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from bench import payloads
from bench.answer import Answer, Broken
from bench.stats import percentile

WORDS = ("cache", "token", "prompt", "block", "queue", "batch", "engine", "worker", "stream", "model")
SYSTEM = "You are a helpful assistant. " * 20
FIRST_WORDS, NEXT_WORDS, ANSWER_WORDS = 900, 250, 120
PAUSE_S = 0.4
_READ_BYTES = 65536


@dataclass(slots=True)
class Outcome:
    """What all conversations saw."""

    requests: int = 0
    errors: int = 0
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    served: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def hits(self) -> float:
        """Per cent of the prompts' tokens that came from a cache."""
        return 100 * self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def imbalance(self, servers: int) -> float:
        """The requests of the server that had most by those of the mean."""
        return max(self.served.values(), default=0) * servers / max(1, self.requests)

    def first_answer_ms(self, fraction: float) -> float:
        """A percentile of the time from a request to its answer's first byte."""
        return percentile(sorted(self.seconds), fraction) * 1000

    def fail(self, reason: str) -> None:
        """One request more that went wrong."""
        self.errors += 1
        self.reason = self.reason or reason


Choose = Callable[[int], int]


class _Conversation:
    """One client."""

    def __init__(self, number: int, ports: Sequence[int], model: str, choose: Choose | None, outcome: Outcome) -> None:
        self._chance = random.Random(number)
        self._number = number
        self._ports = ports
        self._model = model
        self._choose = choose
        self._outcome = outcome
        self._streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    def _words(self, count: int) -> str:
        return " ".join(self._chance.choices(WORDS, k=count))

    async def run(self, turns: int, pause_s: float) -> None:
        await asyncio.sleep(self._chance.uniform(0, 2 * pause_s))
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self._words(FIRST_WORDS)}]
        try:
            for turn in range(turns):
                at = self._choose(self._number) if self._choose else (self._number + turn) % len(self._ports)
                await self._ask(self._ports[at], messages)
                messages.append({"role": "assistant", "content": self._words(ANSWER_WORDS)})
                messages.append({"role": "user", "content": self._words(NEXT_WORDS)})
                await asyncio.sleep(self._chance.uniform(0.5, 1.5) * pause_s)
        except (OSError, Broken, ValueError, KeyError) as error:
            self._outcome.fail(f"{type(error).__name__}: {error}"[:100])
        finally:
            for _, writer in self._streams.values():
                writer.close()

    async def _ask(self, port: int, messages: list[dict[str, str]]) -> None:
        if port not in self._streams:
            self._streams[port] = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = self._streams[port]
        body = json.dumps({"model": self._model, "messages": messages}).encode()
        session = f"X-Session-ID: session-{self._number}\r\n" if self._number % 2 else ""
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.write(
            f"POST {payloads.CHAT_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {payloads.KEY}\r\n"
            f"Content-Type: application/json\r\n{session}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer, received, first = Answer(), b"", 0.0
        while not answer.done:
            data = await reader.read(_READ_BYTES)
            if not data:
                raise Broken("the connection was closed")
            first = first or loop.time() - began
            received += answer.feed(data)
        if answer.closing:
            writer.close()
            del self._streams[port]
        if answer.status != HTTPStatus.OK:
            raise Broken(f"status {answer.status}")
        said = json.loads(received)
        outcome = self._outcome
        outcome.requests += 1
        outcome.prompt_tokens += said["usage"]["prompt_tokens"]
        outcome.cached_tokens += said["usage"]["prompt_tokens_details"]["cached_tokens"]
        outcome.served[said["system_fingerprint"]] += 1
        outcome.seconds.append(first)


def run(
    ports: Sequence[int], model: str, count: int, turns: int, *, choose: Choose | None = None, pause_s: float = PAUSE_S
) -> Outcome:
    """Hold `count` conversations at once through the gateways at `ports`; `choose` names the port of a conversation."""

    async def everything() -> Outcome:
        outcome = Outcome()
        talks = (_Conversation(number, ports, model, choose, outcome) for number in range(count))
        await asyncio.gather(*(each.run(turns, pause_s) for each in talks))
        return outcome

    return asyncio.run(everything())
