"""Hop-by-hop header fields, which describe one connection and end at the gateway (RFC 9110 7.6.1). Pure.

Decides which names those are, and how the Connection field names others. Knows nothing of what a message else holds.
"""

from collections.abc import Iterable

# RFC 9110 7.6.1; they describe one connection and end here although Connection may not name them.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# RFC 9110 5.6.2; a Connection option naming one of these would change where the message goes or how it is framed.
PROTECTED_OPTIONS = frozenset({b"content-length", b"transfer-encoding", b"host"})


def connection_options(values: Iterable[bytes]) -> set[bytes]:
    """The lower-case options of all Connection lines (RFC 9110 7.6.1)."""
    return {option.strip(b" \t").lower() for value in values for option in value.split(b",")} - {b""}
