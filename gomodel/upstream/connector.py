"""Opens connections to instances: no one that leads back to this gateway, and over TLS with a transport of our own.

Leans on `_create_connection` and `_wrap_create_connection` of aiohttp 3.14's connectors
(tests/wire/test_aiohttp_internals.py fails when they move). What a failure means is said by `connect_failure`.
"""

import asyncio
import ssl
from functools import partial
from typing import Any

from aiohttp import ClientConnectorError, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientConnectionError, ClientConnectorCertificateError, ClientConnectorSSLError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.tracing import Trace

from ..host.tls_transport import TlsTransport
from .network import Network
from .resolver import Pinned


class LeadsBack(ClientConnectionError):
    """A connection was opened to this gateway itself, and is closed again."""


class Connector(TCPConnector):
    """Opens no connection that leads back to this gateway, whoever asks for it."""

    def __init__(self, network: Network, number: str | None, **kwargs: Any) -> None:
        """`number`: the address to connect to, in place of any that the host's name has."""
        resolver = network.resolver if number is None else Pinned(number)
        super().__init__(resolver=resolver, use_dns_cache=False, **kwargs)
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
                raise LeadsBack
        return channel

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: ClientRequest,
        client_error: type[Exception] = ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """With TLS of our own in place of the event loop's; `connect_s` is for both.

        To one address alone without aiohttp's race between addresses, which makes a socket, a future and a time limit
        of its own; `connect` limits the time as well.
        """
        context, name = kwargs.pop("ssl"), kwargs.pop("server_hostname")
        connect = partial(
            super()._wrap_create_connection, addr_infos=addr_infos, req=req, client_error=client_error, **kwargs
        )
        if context is None:
            number, port, *scope = addr_infos[0][4]
            if len(addr_infos) > 1 or any(scope):
                return await connect(*args)
            try:
                return await self._loop.create_connection(args[0], number, port)
            except OSError as exc:
                raise client_error(req.connection_key, exc) from exc
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


def trusting(pem: str) -> ssl.SSLContext:
    """Trusts these certificates and whom they signed, and none of the system's."""
    context = ssl.create_default_context(cadata=pem)
    context.set_alpn_protocols(["http/1.1"])
    return context
