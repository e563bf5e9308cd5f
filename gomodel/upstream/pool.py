"""The connections of one replica: opened by its ClientSession's connector, kept here, the freshest taken first.

Decides which idle connection serves next, when one is too old, and what a failed connect means. Knows nothing of
what goes over them. `connector._factory`, `_create_connection`, `_wrap_create_connection` and `connect` are aiohttp's
internals; see `channel`.
"""

import asyncio
import errno
import ssl
from collections import deque
from functools import partial
from typing import Any

from aiohttp import ClientConnectorError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, UnixConnector
from aiohttp.client_exceptions import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorSSLError,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import BaseConnector
from aiohttp.tracing import Trace
from yarl import URL

from ..config.settings import InstanceConfig, Server, Timeouts
from ..errors import ConnectError, GatewayError, LoopDetected, Overloaded, UntrustedCertificate, UpstreamTimeout
from ..host import descriptors
from ..host.tls_transport import TlsTransport
from .channel import Channel
from .head_reader import MAX_FIELD_BYTES
from .network import Network

# Each request that may not be repeated leaves a fresh connection behind; a flood of them must not use up memory.
MAX_IDLE = 1024
# What a process has open besides its connections.
_OPEN_FILES = 16


class _LeadsBack(ClientConnectionError):
    """A connection was opened to this gateway itself, and is closed again."""


class _Connector(TCPConnector):
    """Opens no connection that leads back to this gateway, whoever asks for it."""

    def __init__(self, network: Network, **kwargs: Any) -> None:
        super().__init__(resolver=network.resolver, use_dns_cache=False, **kwargs)
        self._network = network

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> ResponseHandler:
        channel = await super()._create_connection(req, traces, timeout)
        transport = channel.transport
        if transport is not None:
            peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            if self._network.leads_back(peer, local):
                transport.abort()
                raise _LeadsBack
        return channel

    async def _wrap_create_connection(
        self,
        *args: Any,
        req: ClientRequest,
        client_error: type[Exception] = ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """With TLS of our own in place of the event loop's; `connect_s` is for both."""
        context, name = kwargs.pop("ssl"), kwargs.pop("server_hostname")
        connect = partial(super()._wrap_create_connection, req=req, client_error=client_error, **kwargs)
        if context is None:
            return await connect(*args)
        make, *rest = args
        context.options |= ssl.OP_NO_RENEGOTIATION  # during which nothing could be written
        _, made = await connect(lambda: TlsTransport(make(), context, server_hostname=name), *rest)
        transport: Any = made
        try:
            await transport.opened
        except ssl.CertificateError as exc:
            raise ClientConnectorCertificateError(req.connection_key, exc) from exc
        except ssl.SSLError as exc:
            raise ClientConnectorSSLError(req.connection_key, exc) from exc
        except OSError as exc:
            raise client_error(req.connection_key, exc) from exc
        except asyncio.CancelledError:
            transport.abort()
            raise
        return transport, transport.protocol


class Pool:
    """The connections of one replica: its ClientSession's connector opens them, the freshest idle one is taken first.

    aiohttp's own pool hands out the oldest idle connection, the one most likely to be closed by vLLM's 5 s limit
    at that very moment; here the newest goes first and none is used after `upstream_keepalive_s`.
    """

    def __init__(
        self, config: InstanceConfig, server: Server, timeouts: Timeouts, network: Network, servers: int
    ) -> None:
        """`servers`: how many share what files this process may open."""
        loop = asyncio.get_running_loop()
        self._name = config.name
        self.mark = network.mark  # of health probes
        connector: BaseConnector
        # force_close: aiohttp keeps nothing; what is kept is kept here.
        if server.unix_socket is not None:
            connector = UnixConnector(server.unix_socket, force_close=True, limit=0)
        else:
            trust = True if config.ca_pem is None else _trusting(config.ca_pem)
            connector = _Connector(network, force_close=True, limit=0, ssl=trust)
        connector._factory = partial(Channel, loop, config.name)  # type: ignore[assignment]
        self.session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        self._connector = connector
        self._origin = ClientRequest("GET", URL(server.base_url, encoded=True), loop=loop, session=self.session)
        self._loop = loop
        self._idle: deque[Channel] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self.closed = False
        self._leads_back = False
        self.configure(timeouts, servers)

    def configure(self, timeouts: Timeouts, servers: int) -> None:
        """Connect and keep connections by these from now on."""
        self._timeout = ClientTimeout(total=None, connect=timeouts.connect_s, sock_connect=timeouts.connect_s)
        self._keepalive_s = timeouts.upstream_keepalive_s
        self._max_idle = min(MAX_IDLE, descriptors.most_idle(descriptors.limit(), _OPEN_FILES, servers))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweep()

    def take(self) -> Channel | None:
        """The idle connection used last, or None."""
        idle = self._idle
        limit = self._loop.time() - self._keepalive_s
        while idle:
            channel = idle.pop()
            transport = channel.transport
            fresh = channel.idle_since > limit
            channel.idle_since = 0.0
            if fresh and transport is not None and not transport.is_closing():
                channel.reused = True
                return channel
            channel.discard()
        return None

    def judge(self, *, leads_back: bool) -> None:
        """Take requests or not, as a health probe came back to this gateway itself or found another server."""
        self._leads_back = leads_back
        while leads_back and self._idle:
            self._idle[-1].discard()

    async def connect(self, *, probe: bool = False) -> Channel:
        """A new connection. Raises ConnectError, LoopDetected, UpstreamTimeout or Overloaded; nothing was sent then."""
        if self._leads_back and not probe:
            raise LoopDetected(self._name)
        try:
            connection = await self._connector.connect(self._origin, [], self._timeout)
        except (OSError, ClientConnectionError, UnicodeError) as exc:
            raise _connect_error(self._name, exc) from exc
        channel = connection.protocol
        assert isinstance(channel, Channel)
        channel.connection = connection
        channel.pool = self
        return channel

    def give(self, channel: Channel) -> None:
        """Keep a connection for the next exchange."""
        if self.closed or len(self._idle) >= self._max_idle:
            channel.discard()
            return
        channel.idle_since = self._loop.time()
        self._idle.append(channel)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)

    def forget(self, channel: Channel) -> None:
        """The connection is lost or closed."""
        if channel.idle_since:
            channel.idle_since = 0.0
            self._idle.remove(channel)

    def _sweep(self) -> None:
        self._sweeper = None
        limit = self._loop.time() - self._keepalive_s
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle[0].discard()
        if self._idle:
            self._sweeper = self._loop.call_at(self._idle[0].idle_since + self._keepalive_s, self._sweep)

    async def close(self) -> None:
        """Close the idle connections and the session; those in use end with their exchange."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle[-1].discard()
        await self.session.close()


# OpenSSL's X509_V_ERR_*: by itself or by somebody unknown, at the end or anywhere in the chain.
_UNTRUSTED = (18, 19, 20, 21)
_CERTIFICATE_FAULTS = {
    9: "is not valid yet",
    10: "has expired",
    62: "is for another host name",
    64: "is for another address",
}
# What OpenSSL makes of an answer in plain text, by its version.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_UNROUTABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)


def _trusting(pem: str) -> ssl.SSLContext:
    """Trusts these certificates and whom they signed, and none of the system's."""
    context = ssl.create_default_context(cadata=pem)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _connect_error(instance: str, exc: BaseException) -> GatewayError:
    """What a failed connect means, in RFC 9209's words; the exception's text stays here."""
    if isinstance(exc, _LeadsBack):
        return LoopDetected(instance)
    if isinstance(exc, TimeoutError):
        return UpstreamTimeout(f"Instance '{instance}' did not accept a connection in time.", code="connection_timeout")
    if isinstance(exc, ClientConnectorCertificateError):
        number = getattr(exc.certificate_error, "verify_code", 0)
        if number in _UNTRUSTED:
            return UntrustedCertificate(f"The certificate of instance '{instance}' is signed by nobody trusted here.")
        what = _CERTIFICATE_FAULTS.get(number, "is not valid")
        return ConnectError(f"The certificate of instance '{instance}' {what}.", code="tls_certificate_error")
    if isinstance(exc, ClientConnectorSSLError):
        if getattr(exc.os_error, "reason", None) in _NO_TLS:
            return ConnectError(
                f"Instance '{instance}' is set to https but does not speak TLS.", code="tls_protocol_error"
            )
        return ConnectError(f"The TLS handshake with instance '{instance}' failed.", code="tls_protocol_error")
    cause = exc.os_error if isinstance(exc, ClientConnectorError) else exc
    number = getattr(cause, "errno", None)
    # Before the rest: a look-up fails for want of a descriptor as well.
    if number in descriptors.EXHAUSTED:
        return Overloaded("The gateway has no free file descriptor.", code="connection_limit", retry_after_s=1)
    if isinstance(exc, (ClientConnectorDNSError, UnicodeError)):
        return ConnectError(f"The host name of instance '{instance}' could not be resolved.", code="dns_error")
    if number in _UNROUTABLE:
        return ConnectError(f"There is no route to instance '{instance}'.", code="destination_ip_unroutable")
    if isinstance(cause, ConnectionResetError):
        return ConnectError(f"Instance '{instance}' reset the connection.", code="connection_terminated")
    return ConnectError(f"Instance '{instance}' refused the connection.", code="connection_refused")
