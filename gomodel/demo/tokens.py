"""What a token is: a word or a punctuation mark with the space before it, and an integer for it.

Decides the split and the numbers. Both directions are pure functions without a table that grows: a word of the
simulation's own vocabulary has a small id; anything else is cut into pieces of at most six UTF-8 bytes, whose bytes
are the id (below 2**53, so that it survives JSON numbers in JavaScript). Knows nothing of prompts or HTTP.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .text import CORPUS

SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>", "<|media|>", "<|end|>")

_PIECE = re.compile(r"<\|[a-z]+\|>| ?\w+| ?[^\w\s]|\s+")
_PIECE_LIMIT_BYTES = 6
_RAW_BASE = 1024  # ids below are the vocabulary; a longer corpus must raise it


def _vocabulary() -> tuple[str, ...]:
    words: dict[str, None] = dict.fromkeys(SPECIAL)
    for sentence in CORPUS:
        words.update(dict.fromkeys(_PIECE.findall(re.sub(r" ?\{\w+\}", "", sentence))))
    return tuple(words)


VOCABULARY = _vocabulary()
_IDS = {word: number for number, word in enumerate(VOCABULARY)}
if len(VOCABULARY) > _RAW_BASE:
    raise AssertionError("the vocabulary outgrew its id range")


class Step(NamedTuple):
    """What one stream event carries: a whole word, although it may be several tokens."""

    text: str
    tokens: int


def _split(piece: str) -> Iterator[str]:
    if piece in _IDS:
        yield piece
        return
    start = size = 0
    for position, char in enumerate(piece):
        width = len(char.encode("utf-8", "replace"))
        if size + width > _PIECE_LIMIT_BYTES:
            yield piece[start:position]
            start, size = position, 0
        size += width
    yield piece[start:]


def split(text: str) -> Iterator[str]:
    """The tokens of `text` as strings; joined they are `text`."""
    for piece in _PIECE.findall(text):
        yield from _split(piece)


def steps(text: str) -> list[Step]:
    """`text` word by word, each with its number of tokens."""
    return [Step(piece, sum(1 for _ in _split(piece))) for piece in _PIECE.findall(text)]


def count(text: str) -> int:
    """How many tokens `text` has: `len(encode(text))`."""
    return sum(1 for _ in split(text))


def head(text: str, tokens: int) -> str:
    """The first `tokens` tokens of `text`."""
    return "".join(part for part, _ in zip(split(text), range(tokens), strict=False))


def encode(text: str) -> list[int]:
    """Token ids of `text`. Lone surrogates, which UTF-8 cannot carry, count as question marks."""
    return [_encode_token(token) for token in split(text)]


def _encode_token(token: str) -> int:
    known = _IDS.get(token)
    if known is not None:
        return known
    return _RAW_BASE + int.from_bytes(b"\x01" + token.encode("utf-8", "replace"))


def decode(ids: Sequence[int]) -> str:
    """The text of `ids`. Like vLLM, an id outside of the vocabulary is nothing and a broken character is U+FFFD."""
    return b"".join(map(_decode_token, ids)).decode("utf-8", "replace")


def _decode_token(number: int) -> bytes:
    if 0 <= number < len(VOCABULARY):
        return VOCABULARY[number].encode()
    if number < _RAW_BASE:
        return b""
    raw = number - _RAW_BASE
    data = raw.to_bytes((raw.bit_length() + 7) // 8)
    return data[1:] if data[:1] == b"\x01" and len(data) <= _PIECE_LIMIT_BYTES + 1 else b""
