"""The sentences of a simulated answer, chosen by a hash of the prompt. The first says that no model is running."""

import hashlib
import random
import re
from collections.abc import Iterator

OPENING = "This is a simulated answer: no model is running."

_WROTE = " You sent {count}, and {a} was among them."
_BODY = (
    " A real model would now say something useful about {a}.",
    " Here {a} stands only for itself, and {b} keeps it company.",
    " Every sentence comes from a short list, chosen by a hash of your prompt.",
    " Ask again and you will read the same words.",
    " The words arrive one by one, so that you can watch them stream.",
    " Point the gateway at a real server to learn more about {a}.",
    " Until then, {a} and {b} are only words taken from your prompt.",
    " The usage numbers count words and punctuation marks.",
    " If you close the connection now, the simulation stops at once.",
    " This sentence mentions {a} to show that your prompt was read.",
    " No weights were loaded, and no GPU got warm.",
    " Between {a} and {b} lies everything that a language model would know.",
)
CORPUS = (OPENING, _WROTE, *_BODY, " one word words")

_TOPICS = ("gateways", "streams", "tokens", "prompts", "servers", "answers")
_COMMON = {"about", "could", "please", "should", "their", "there", "these", "those", "where", "which", "would", "write"}
_SCANNED_CHARS = 20_000  # a topic from the start of a long prompt is as good as any


def _topics(text: str) -> list[str]:
    """The first distinct words of `text` that say what it is about; longer runs of letters are base64 or keys."""
    words = re.findall(r"\b[^\W\d_]{5,24}\b", text[:_SCANNED_CHARS].lower())
    return [word for word in dict.fromkeys(words) if word not in _COMMON][:12] or list(_TOPICS)


def sentences(prompt: str, last: str, variant: object) -> Iterator[str]:
    """Endless sentences for `prompt`, whose last message is `last`; `variant` tells several choices apart."""
    seed = f"{prompt}\0{variant}".encode("utf-8", "replace")
    chosen = random.Random(hashlib.sha256(seed).digest())  # the same in every process and on every machine
    topics = _topics(last)
    yield OPENING
    written = len(last.split())
    count = "one word" if written == 1 else f"{written} words"
    yield _WROTE.format(count=count, a=chosen.choice(topics))
    while True:
        for template in chosen.sample(_BODY, len(_BODY)):
            a = chosen.choice(topics)
            b = chosen.choice([word for word in topics if word != a] or list(_TOPICS))
            yield template.format(a=a, b=b)
