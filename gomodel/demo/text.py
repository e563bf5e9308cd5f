"""Which words a simulated answer has: readable sentences, chosen by a hash of the prompt.

Decides the wording and that the first sentence says what it is. Knows nothing of tokens, limits or HTTP.
"""

import hashlib
import random
import re
from collections.abc import Iterator

OPENING = "This is a simulated answer: no model is running."

_WROTE = (
    " You wrote {count}, and {a} was among them.",
    " Your message has {count}, for example {a}.",
    " You asked about {a} in {count}.",
)

_AFTER_TOOL = (
    " The tool sent back {count}, and {a} was among them.",
    " The result of the tool has {count}, for example {a}.",
)

_BODY = (
    " A real model would now say something useful about {a}.",
    " Here {a} stands only for itself, and {b} keeps it company.",
    " Every sentence comes from a short list, chosen by a hash of your prompt.",
    " Ask again and you will read the same words.",
    " The words arrive one by one, so that you can watch them stream.",
    " Point the gateway at a real server to learn more about {a}.",
    " Until then, {a} and {b} are only words taken from your prompt.",
    " Nothing here was computed by a neural network.",
    " The usage numbers count words and punctuation marks.",
    " If you close the connection now, the simulation stops at once.",
    " First came {a}, then came {b}, and then came a full stop.",
    " Some readers prefer {a}, others prefer {b}; this text has no opinion.",
    " This sentence mentions {a} to show that your prompt was read.",
    " No weights were loaded, and no GPU got warm.",
    " It is safe to skip this sentence about {b}.",
    " Between {a} and {b} lies everything that a language model would know.",
    " The same request gives the same answer on every machine.",
    " Whatever is true about {a}, you will not find it here.",
)

_TOPICS = ("gateways", "streams", "tokens", "prompts", "servers", "answers")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "about also been could does dont from give have here into just like make more most only over please should "
        "some tell than that their them then there these they this those very want were what when where which will "
        "with would write your",
    )
)
_TOPIC_LIMIT_CHARS = 24  # longer runs of letters are base64 or keys, not words
_TOPICS_KEPT = 12
_TOPIC_SCAN_CHARS = 20_000  # a topic from the start of a long prompt is as good as any

CORPUS = (OPENING, *_WROTE, *_AFTER_TOOL, *_BODY, " one word", " words")


def topics(text: str) -> list[str]:
    """The first distinct words of `text` that say what it is about, or a fixed list when there are none."""
    found: dict[str, None] = {}
    for word in re.findall(r"[^\W\d_]+", text[:_TOPIC_SCAN_CHARS].lower()):
        if 4 <= len(word) <= _TOPIC_LIMIT_CHARS and word not in _COMMON:
            found.setdefault(word)
            if len(found) == _TOPICS_KEPT:
                break
    return list(found) or list(_TOPICS)


def seeded(*parts: object) -> random.Random:
    """A generator that depends on `parts` only: the same in every process and on every machine."""
    joined = "\x00".join(map(str, parts)).encode("utf-8", "replace")
    return random.Random(hashlib.sha256(joined).digest())


def sentences(prompt: str, last: str, *, after_tool: bool, variant: object) -> Iterator[str]:
    """Endless sentences for `prompt`, whose last message is `last`; `variant` tells several choices apart.

    The opening comes first, then a sentence about the last message, then the list in a seeded order without
    immediate repeats. Joined they read as one paragraph.
    """
    chosen = seeded(prompt, variant)
    words = topics(last)
    yield OPENING
    second = _AFTER_TOOL if after_tool else _WROTE
    written = len(last.split())
    count = "one word" if written == 1 else f"{written} words"
    yield chosen.choice(second).format(count=count, a=chosen.choice(words))
    while True:
        for template in chosen.sample(_BODY, len(_BODY)):
            a = chosen.choice(words)
            b = chosen.choice([word for word in words if word != a] or list(_TOPICS))
            yield template.format(a=a, b=b)


def usual_length(prompt: str, variant: object) -> int:
    """After how many sentences an answer stops when nothing else stops it."""
    return seeded("length", prompt, variant).randint(4, 9)
