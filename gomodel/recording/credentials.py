"""What of a head is a credential, and what stands in its place in a recording. Pure.

Decides by names of fields and of query parameters. Bodies are recorded as they are: prompts and answers stand in them.
"""

import re

MASK = b"***"
_FIELDS = (
    b"authorization",
    b"proxy-authorization",
    b"x-api-key",
    b"api-key",
    b"cookie",
    b"set-cookie",
)
_LINE = re.compile(rb"(?im)^(%b)[ \t]*:[^\r\n]*" % b"|".join(map(re.escape, _FIELDS)))
# How a browser presents its key for a WebSocket.
_PROTOCOL = re.compile(rb"(openai-insecure-api-key\.)[^\s,;]+", re.I)
_QUERY = re.compile(rb"([?&](?:api[-_]?key|key|access[-_]?token|token)=)[^&\s]*", re.I)


def without_credentials(head: bytes) -> bytes:
    """The head with a mask in place of each credential; its other bytes, and their order, stay."""
    first, _, rest = head.partition(b"\r\n")
    rest = _LINE.sub(lambda match: match[1] + b": " + MASK, rest)
    return _QUERY.sub(rb"\1" + MASK, first) + b"\r\n" + _PROTOCOL.sub(rb"\1" + MASK, rest)


def with_key(head: bytes, key: str | None) -> bytes:
    """A recorded head as it can be sent: without masked fields, with `key` where there is one."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _FIELDS]
    if key is not None:
        kept.append(b"Authorization: Bearer " + key.encode())
    return b"\r\n".join([first, *kept, b"", b""])
