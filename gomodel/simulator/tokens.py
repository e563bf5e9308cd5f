"""What a token is: a word or a punctuation mark with the space before it, and an integer for it.

A word of the simulation's own vocabulary has a small id. Anything else is cut into pieces of at most six UTF-8 bytes,
whose bytes are the id: below 2**53, so that it survives JSON numbers in JavaScript, and no table has to grow.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .text import CORPUS

_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|media|>", "<|end|>")
_PIECE = re.compile(r"<\|[a-z]+\|>| ?\w+| ?[^\w\s]|\s+")
_PIECE_LIMIT_BYTES = 6
_RAW_BASE = 1024  # ids below are the vocabulary

_WORDS = (word for sentence in CORPUS for word in _PIECE.findall(re.sub(r" ?\{\w+\}", "", sentence)))
_VOCABULARY = tuple(dict.fromkeys([*_SPECIAL, *_WORDS]))
_IDS = {word: number for number, word in enumerate(_VOCABULARY)}


def split(text: str) -> Iterator[str]:
    """The tokens of `text` as strings; joined they are `text`."""
    for piece in _PIECE.findall(text):
        if piece in _IDS:
            yield piece
            continue
        start = size = 0
        for position, char in enumerate(piece):
            width = len(char.encode("utf-8", "replace"))
            if size + width > _PIECE_LIMIT_BYTES:
                yield piece[start:position]
                start, size = position, 0
            size += width
        yield piece[start:]


def count(text: str) -> int:
    """How many tokens `text` has."""
    return sum(1 for _ in split(text))


def encode(text: str) -> list[int]:
    """Token ids of `text`. Lone surrogates, which UTF-8 cannot carry, count as question marks."""
    return [
        _IDS[token] if token in _IDS else _RAW_BASE + int.from_bytes(b"\x01" + token.encode("utf-8", "replace"))
        for token in split(text)
    ]


def decode(ids: Sequence[int]) -> str:
    """The text of `ids`. As with vLLM an id outside of the vocabulary is nothing, a broken character is U+FFFD."""
    return b"".join(map(_bytes_of, ids)).decode("utf-8", "replace")


def _bytes_of(number: int) -> bytes:
    if number < _RAW_BASE:
        return _VOCABULARY[number].encode() if 0 <= number < len(_VOCABULARY) else b""
    raw = number - _RAW_BASE
    data = raw.to_bytes((raw.bit_length() + 7) // 8)
    return data[1:] if data[:1] == b"\x01" and len(data) <= _PIECE_LIMIT_BYTES + 1 else b""


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """Token counts as OpenAI's routes report them."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
