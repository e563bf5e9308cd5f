"""Plain HTTP sent to the TLS port: answered with a 400 that says so, as nginx does.

Decides from the first byte of a connection, which in TLS is never a letter. The event loop's TLS asks this object to
shake hands; instead it writes the answer where the handshake would stand and never comes to one. Knows nothing of
sockets: the client closes, or the loop's limit for handshakes does.
"""

import ssl
from typing import Any

from .close_notify import Parting

_BODY = b"This port speaks TLS: use https:// in the address.\n"
_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
    % (len(_BODY), _BODY)
)


class TellPlainHttp(Parting):
    """The server's side of a handshake, for `SSLContext.sslobject_class`."""

    _bios: tuple[ssl.MemoryBIO, ssl.MemoryBIO] | None
    _told = False

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> "TellPlainHttp":
        made: TellPlainHttp = super()._create(incoming, outgoing, *args, **kwargs)  # type: ignore[misc]
        made._bios = incoming, outgoing
        return made

    def do_handshake(self) -> None:
        """See ssl.SSLObject."""
        if self._told:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "[SSL: HTTP_REQUEST] http request")
        if self._bios is not None:
            incoming, outgoing = self._bios
            begun = incoming.read()
            if begun[:1].isalpha():
                self._told = True
                outgoing.write(_ANSWER)
                raise ssl.SSLWantReadError  # which is when the loop sends what has been written
            incoming.write(begun)
            if begun:
                self._bios = None
        super().do_handshake()
