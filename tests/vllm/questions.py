"""The four ways to ask vLLM for text, as request bodies, and how to read the text out of their streams.

Decides the sampling: greedy and past the end-of-sequence token, so that the same question has the same answer of a
known length every time. Does not know who is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from .processes import INSTANCE_KEY, MASTER_KEY, MODEL
from .wire import Event

SELECTOR = f"vllm/{MODEL}"
PROMPT = "def read(self, size):\n    'Caf\u00e9 \u2603'"
MESSAGES = [{"role": "user", "content": PROMPT}]
# Longer than any test waits: at 300 tokens a second this is about 20 s of work for the engine.
LONG = 6000

# How a caller of gomodel, and how gomodel itself, presents its key.
CALLER = {"Authorization": f"Bearer {MASTER_KEY}"}
DIRECT = {"Authorization": f"Bearer {INSTANCE_KEY}"}


@dataclass(frozen=True)
class Question:
    """One generating route of vLLM."""

    path: str
    fields: dict[str, Any]
    length_field: str
    delta: Callable[[Any], str]
    # What the last event is: the data of an unnamed one, or the name.
    last_data: str | None = None
    last_name: str | None = None

    def body(self, model: str, tokens: int, *, stream: bool = False) -> dict[str, Any]:
        asked = {"model": model, **self.fields, self.length_field: tokens}
        return {**asked, "stream": True} if stream else asked

    def text(self, events: Sequence[Event]) -> str:
        """All deltas of a stream joined."""
        return "".join(self.delta(event.json()) for event in events if event.data != "[DONE]")


def chat_delta(event: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def completion_delta(event: Any) -> str:
    return "".join(choice["text"] for choice in event["choices"])


def response_delta(event: Any) -> str:
    return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""


def message_delta(event: Any) -> str:
    return str(event["delta"]["text"]) if event["type"] == "content_block_delta" else ""


GREEDY = {"temperature": 0, "seed": 7, "ignore_eos": True}

QUESTIONS = {
    "chat": Question(
        "/v1/chat/completions", {"messages": MESSAGES, **GREEDY}, "max_tokens", chat_delta, last_data="[DONE]"
    ),
    "completions": Question(
        "/v1/completions", {"prompt": PROMPT, **GREEDY}, "max_tokens", completion_delta, last_data="[DONE]"
    ),
    "responses": Question(
        "/v1/responses",
        {"input": PROMPT, **GREEDY},
        "max_output_tokens",
        response_delta,
        last_name="response.completed",
    ),
    "messages": Question(
        "/v1/messages", {"messages": MESSAGES, "temperature": 0}, "max_tokens", message_delta, last_name="message_stop"
    ),
}

# A test for each of them that vLLM's front end has.
every_question = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.asks(question.path)) for name, question in QUESTIONS.items()]
)
