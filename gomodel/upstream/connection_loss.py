"""What the loss of a connection to an instance means for the request on it, and what can still be read of one.

Decides which failure it is, and so whether the request may go out again (`relay.attempts`). Knows nothing of whose
request it was.
"""

import asyncio
import os
import ssl
from collections.abc import Iterator

from ..errors import GatewayError, StaleConnection
from .response_checks import fault

_READ_BYTES = 1 << 16


def failure(
    instance: str, exc: BaseException | None, *, tunnel: bool, in_body: bool, in_head: bool, reused: bool
) -> GatewayError:
    """The failure of the exchange that a lost connection carried; `exc` is None after a FIN.

    StaleConnection where the instance may have closed it before the request came (RFC 9112 9.3.1).
    """
    if isinstance(exc, OSError) and not isinstance(exc, ConnectionError | ssl.SSLError):
        # Timed out or unroutable: the host is gone. It may have begun, so even a reused connection is not stale.
        code, what = "connection_terminated", "cannot be reached any more"
    elif tunnel:
        code, what = "connection_terminated", "reset the connection"
    elif in_body:
        code, what = "connection_terminated", "closed the connection before the response was complete"
    elif in_head:
        code, what = "http_response_incomplete", "closed the connection inside the response head"
    elif reused:
        return StaleConnection(f"Instance '{instance}' closed the connection before it answered.")
    else:
        code, what = "connection_terminated", "closed the connection before it answered"
    return fault(instance, code, what)


def closed_on_purpose(transport: asyncio.Transport | None) -> bool:
    """Whether the end of a connection was said, not cut: over TLS anybody on the way can forge a FIN (RFC 9112 9.8)."""
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def last_words(transport: asyncio.Transport | None) -> Iterator[bytes]:
    """What is left to read after a reset; nothing over TLS, whose keys are gone.

    An instance that refuses an upload answers and closes while it is still coming. When its reset fails a write of
    ours before the answer was read, the answer is still there (Linux keeps it).
    """
    if transport is None or transport.get_extra_info("sslcontext") is not None:
        return
    sock = transport.get_extra_info("socket")
    try:
        while data := os.read(sock.fileno(), _READ_BYTES):
            yield data
    except OSError:
        pass
