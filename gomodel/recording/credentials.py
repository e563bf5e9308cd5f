"""What of a head is a credential, and what stands in its place in a recording. Pure.

Decides by names of fields and of query parameters, wherever a URL stands. Bodies are recorded as they are, their
trailers too: prompts and answers stand in them.
"""

import re
from urllib.parse import unquote_to_bytes

MASK = b"***"
_WORDS = re.compile(rb"key|token|secret|auth|password|credential|cookie|signature", re.I)
# What has such a word in its name and is none: limits of tokens, challenges, and keys that open nothing.
_INNOCENT = re.compile(
    rb"tokens|ratelimit[-_]\S*|keyword|author(?!i)|authority|(?:www|proxy)-authenticate|access-control-\S*"
    rb"|sec-websocket-key|idempotency-key",
    re.I,
)
# A field with the lines that continue it (RFC 9112 5.2).
_FIELD = re.compile(rb"^([^:\r\n]*):(?:[^\r\n]+|\r(?!\n)|\r?\n[ \t])*", re.M)
_PARAMETER = re.compile(rb"[?&;#]([^=&;?#\s]+)=")
_VALUE = re.compile(rb"[^&\s]*")
_USER = re.compile(rb"(://)[^/?#\s]*@")
# How a browser presents its key for a WebSocket.
_PROTOCOL = re.compile(rb"(openai-insecure-api-key\.)[^\s,;]+", re.I)
_MASKED = re.compile(rb"=\*\*\*|://\*\*\*@|openai-insecure-api-key\.\*\*\*", re.I)


def without_credentials(head: bytes) -> bytes:
    """The head with a mask in place of each credential; its other bytes, and their order, stay."""
    first, end, rest = head.partition(b"\n")
    return _without_in_urls(first) + end + _FIELD.sub(_masked, rest)


def target_without_credentials(target: str) -> str:
    """The target of a request as it stands in a recording."""
    return _without_in_urls(target.encode("latin-1", "replace")).decode("latin-1")


def with_key(head: bytes, key: str | None) -> bytes:
    """A recorded head as it can be sent: without what is masked, with `key` where there is one."""
    first, _, rest = head.removesuffix(b"\r\n").partition(b"\r\n")
    path, mark, query = first.replace(b"://" + MASK + b"@", b"://").partition(b"?")
    if mark:
        query, space, version = query.partition(b" ")
        kept = b"&".join(each for each in query.split(b"&") if not each.endswith(b"=" + MASK))
        path += (mark + kept if kept else b"") + space + version
    lines = (match[0] for match in _FIELD.finditer(rest))
    rest = b"".join(line + b"\r\n" for line in lines if not _left_out(line))
    own = b"" if key is None else b"Authorization: Bearer " + key.encode() + b"\r\n"
    return path + b"\r\n" + rest + own + b"\r\n"


def _left_out(line: bytes) -> bool:
    return _names_credential(line.partition(b":")[0]) or _MASKED.search(line) is not None


def _names_credential(name: bytes) -> bool:
    return _WORDS.search(_INNOCENT.sub(b"", name)) is not None


def _masked(field: re.Match[bytes]) -> bytes:
    if _names_credential(field[1]):
        return field[1].rstrip() + b": " + MASK
    return _PROTOCOL.sub(rb"\1" + MASK, _without_in_urls(field[0]))


def _without_in_urls(text: bytes) -> bytes:
    text = _USER.sub(rb"\1" + MASK + b"@", text)
    kept, at = [], 0
    for found in _PARAMETER.finditer(text):
        if found.start() >= at and _names_credential(unquote_to_bytes(found[1])):
            value = _VALUE.match(text, found.end())
            kept += [text[at : found.end()], MASK]
            at = value.end() if value else found.end()
    return b"".join([*kept, text[at:]])
