"""How an operator names header fields, and gives those and the keys that every request upstream has.

Decides which fields may not be dropped, set or taken for a session's name, since they frame the message or have a
meaning of their own. Parsers as in `values`; a key, and a value that may be one, is never quoted.
"""

import re

from ..http1.field_kinds import OWN_MEANING
from ..http1.hop_by_hop import HOP_BY_HOP
from .values import comma_list, lower_set, quoted

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VISIBLE = re.compile(r"[!-~]+")

# What the client sends under these names never reaches vLLM; what does is about the connection to vLLM.
_WRITTEN_ANEW = frozenset({"connection", "host", "upgrade", "x-request-id"})

_NOT_FIXED = (_WRITTEN_ANEW | {name.decode() for name in HOP_BY_HOP}).union(
    ("authorization", "content-encoding", "content-length", "content-type", "cookie", "expect", "x-gomodel-replica")
)


def session_headers(text: str) -> tuple[str, ...]:
    """A comma list of names of header fields (RFC 9110 5.1) that tell conversations apart, the likeliest first."""
    names = comma_list(text)
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{quoted(name)} is not a header name; use a comma list such as X-Chat-Id,X-Foo")
        if name.lower().encode() in OWN_MEANING:
            raise ValueError(f"{quoted(name)} has a meaning of its own and names no conversation")
    return names


def header_names(text: str) -> frozenset[str]:
    """A comma list of header field names (RFC 9110 5.1), lower case. Those that every request upstream needs are
    refused: without framing headers the body could not be delimited (RFC 9112 6)."""
    names = lower_set(text)
    for name in sorted(names):
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{quoted(name)} is not a header name; use a comma list such as X-Vllm-Priority,X-Foo")
        if name in {"content-length", "transfer-encoding"}:
            raise ValueError(f"{quoted(name)} delimits the body and cannot be stripped")
        if name in _WRITTEN_ANEW:
            raise ValueError(f"{quoted(name)} is not the client's: gomodel writes its own, which cannot be stripped")
    return names


def fixed_fields(text: str) -> tuple[tuple[str, str], ...]:
    """Header fields, as in `X-Team: search|X-Caller: {key}`, each with a value; the message quotes no value.

    Refused are those that the gateway writes itself, and those that frame the message (RFC 9112 6).
    """
    example = "use fields separated by |, such as X-Team: search|X-Caller: {key}"
    found: dict[str, tuple[str, str]] = {}
    for number, entry in enumerate(text.split("|"), 1):
        name, colon, value = entry.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not value or not _TOKEN.fullmatch(name):
            raise ValueError(f"field {number} has no name and value; {example}")
        if not re.fullmatch(r"[\t -~]+", value):
            raise ValueError(f"the value of {quoted(name)} has a character outside printable ASCII")
        if name.lower() in _NOT_FIXED:
            raise ValueError(f"{quoted(name)} is the gateway's own to write, or the client's")
        if name.lower() in found:
            raise ValueError(f"{quoted(name)} is there twice")
        found[name.lower()] = name, value
    return tuple(found.values())


def bearer_token(text: str) -> str:
    """A key that can travel in `Authorization: Bearer <key>`: visible ASCII. The message never quotes it."""
    if not _VISIBLE.fullmatch(text):
        raise ValueError(
            "holds whitespace, a control character or a character outside ASCII, "
            "so it cannot be sent as a bearer token; use visible ASCII characters only"
        )
    return text
