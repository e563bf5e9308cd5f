"""TLS by hand over a Wire: what goes over the socket is known to the last record, and so is how it ends.

The certificate that is used everywhere is for localhost and 127.0.0.1, signed by itself, made for these tests alone;
another one is for nobody.
"""

import contextlib
import functools
import socket
import ssl
from pathlib import Path

from .wire import PIECE, PeerGone, Wire

# Key and certificate.
PEM = str(Path(__file__).with_name("localhost.pem"))
# For a name that does not exist, signed by itself, made for these tests alone.
KEY_AND_CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXu4WLwX1lhoWuGOS
rU/A29P99PGE55b9HE4kfMpEMcehRANCAASXPPIfbQNma+P4VYj5QKwBwXnOIWDN
2ED3y8JICI8F/CIyss1I1M3DwWA09DeP9MGa2Ozh7l0T6eXnGz5ibw5c
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBgjCCASmgAwIBAgIUfwserjeW/e49PK0PTXYrVbaTj8kwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLbm9ib2R5LnRlc3QwIBcNMjYxMTIzMDg0OTM4WhgPMjEyNjEw
MzAwODQ5MzhaMBYxFDASBgNVBAMMC25vYm9keS50ZXN0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAElzzyH20DZmvj+FWI+UCsAcF5ziFgzdhA98vCSAiPBfwiMrLN
SNTNw8FgNPQ3j/TBmtjs4e5dE+nl5xs+Ym8OXKNTMFEwHQYDVR0OBBYEFHQBfgAR
MAEFAd1V0EUnhn51uLz6MB8GA1UdIwQYMBaAFHQBfgARMAEFAd1V0EUnhn51uLz6
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgDYL38CqBjXoD7pD5
VZfGGjujVpCZsHVIJL1ydcVCLWkCIG7LIC9DaPm3OO7J/reJFQuI5YxiqTyybWQE
Kx2XP/ST
-----END CERTIFICATE-----
"""


@functools.cache
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


@functools.cache
def client_context() -> ssl.SSLContext:
    """Trusts that certificate and no other."""
    return ssl.create_default_context(cafile=PEM)


class TlsWire(Wire):
    """A Wire inside TLS; `received` and `segments` are plaintext, `sent_bytes` counts what the kernel took.

    `notified` tells whether the peer said that it closes. Most clients take no notice of that, and so do `ended` and
    all that is built on it.
    """

    def __init__(self, sock: socket.socket, name: str, *, server_side: bool) -> None:
        super().__init__(sock, name)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_context() if server_side else client_context()
        host = None if server_side else "127.0.0.1"
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=host)
        self.notified = False

    async def handshake(self) -> None:
        """PeerGone when the peer leaves before it is over, ssl.SSLError when it does not like what it gets."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise PeerGone(f"{self.name} ended in the handshake") from None
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        if data := self._out.read():
            await self._transmit(data)

    async def _fill(self) -> bytes:
        data = await self._receive(PIECE)
        self._in.write(data) if data else self._in.write_eof()
        return data

    async def read(self, limit: int = PIECE) -> bytes:
        """See Wire.read."""
        while not self.closed:
            try:
                data = self._tls.read(limit)
            except ssl.SSLWantReadError:
                await self._fill()
            except ssl.SSLZeroReturnError:
                return await self._parted()
            except ssl.SSLError:
                return b""
            else:
                if not data:
                    return await self._parted()
                self._record(data)
                return data
        return b""

    async def _parted(self) -> bytes:
        self.notified = True
        while await self._receive(PIECE):
            pass
        return b""

    async def send(self, data: bytes) -> None:
        """See Wire.send."""
        view = memoryview(data)
        while view:
            self._tls.write(view[:PIECE])
            view = view[PIECE:]
            await self._flush()

    def _say_goodbye(self) -> None:
        """A close_notify, as far as the kernel takes it."""
        if self.shut or self.closed:
            return
        with contextlib.suppress(ssl.SSLError, OSError):
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass
            self._sock.send(self._out.read())

    def half_close(self) -> float:
        """Sends close_notify and FIN and keeps reading; returns the monotonic time."""
        self._say_goodbye()
        return super().half_close()

    def close(self) -> float:
        """Closes as a server does that knows TLS: close_notify and FIN."""
        self._say_goodbye()
        return super().close()

    def cut(self) -> float:
        """Sends a FIN without a close_notify, as a process that is killed or somebody on the way does."""
        return super().half_close()

    def reset(self) -> float:
        """See Wire.reset; no close_notify either."""
        self.shut = True
        return super().reset()
