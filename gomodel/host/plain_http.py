"""Plain HTTP sent to the TLS port: answered with a 400 that says so, as nginx does.

Decides from the first byte of a connection, which in TLS is never a letter. Knows nothing of connections.
"""

_BODY = b"This port speaks TLS: use https:// in the address.\n"
_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
    % (len(_BODY), _BODY)
)


def answer(begun: bytes) -> bytes:
    """What a connection that begins so is told; nothing if it may be TLS."""
    return _ANSWER if begun[:1].isalpha() else b""
