"""The end of a TLS connection that does not wait for the peer's own (close_notify).

Decides that ours is sent and the connection closed behind it, as RFC 8446 6.1 allows. An event loop waits 30 seconds
for the peer's, which a client that keeps its idle connections does not send; so long SIGTERM took.
"""

import ssl


class Parting(ssl.SSLObject):
    """The TLS state of one connection, for `SSLContext.sslobject_class`."""

    def unwrap(self) -> None:
        """Write our close_notify; what asyncio and uvloop call when everything else is written."""
        try:
            super().unwrap()
        except ssl.SSLWantReadError:
            pass  # for the peer's
