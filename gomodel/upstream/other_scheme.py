"""Whether an instance speaks TLS although it is set to plain http, or plain http although it is set to https.

Many servers close the connection without a word in the first case and wait for a line end in the second, so only
another try shows it. It is made by health probes and `--check`, never by a request, and sends nothing that is secret.
"""

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, ConnectionTimeoutError
from yarl import URL

from ..config.settings import Server

# What is known of an instance that speaks the other one; last errors for operators, like the words of RFC 9209.
SPEAKS_TLS = "speaks_tls_not_plain_http"
SPEAKS_PLAIN_HTTP = "speaks_plain_http_not_tls"
# The failures that the wrong scheme may have caused. nginx and Go's servers say 400 to plain http on a port for TLS.
BAD_REQUEST = "http_request_error"
_DOUBTS = {
    "http": frozenset({"connection_terminated", "http_protocol_error", BAD_REQUEST}),
    "https": frozenset({"connection_terminated", "connection_timeout", "tls_protocol_error"}),
}
_CONNECT_S = 2.0
# Who has shaken hands need not answer: a server may know other requests than this one.
_ANSWER_S = 0.5
_BAD_REQUEST = 400


def doubtful(server: Server, code: str) -> bool:
    """Whether a failure with this code may come from the wrong scheme."""
    return server.unix_socket is None and code in _DOUBTS[_scheme(server)]


async def speaks_other(session: ClientSession, server: Server) -> str:
    """SPEAKS_TLS or SPEAKS_PLAIN_HTTP when the instance is set to the other scheme; "" when it is not known to be."""
    if _scheme(server) == "https":
        return SPEAKS_PLAIN_HTTP if await _speaks_plain_http(session, server) else ""
    return SPEAKS_TLS if await _speaks_tls(session, server) else ""


async def _speaks_tls(session: ClientSession, server: Server) -> bool:
    """Whether it takes a TLS handshake, whatever its certificate says and whatever it answers then."""
    timeout = ClientTimeout(connect=_CONNECT_S, sock_read=_ANSWER_S)
    try:
        async with session.get(_url(server, "https"), ssl=False, timeout=timeout, allow_redirects=False):
            return True
    except (ClientConnectorError, ConnectionTimeoutError):
        return False
    except ClientError:
        return True
    except (OSError, ValueError):
        return False


async def _speaks_plain_http(session: ClientSession, server: Server) -> bool:
    """Whether it answers in plain text, and not that it wants TLS."""
    try:
        timeout = ClientTimeout(total=_CONNECT_S)
        async with session.get(_url(server, "http"), timeout=timeout, allow_redirects=False) as answer:
            return answer.status != _BAD_REQUEST
    except (ClientError, OSError, ValueError):
        return False


def _scheme(server: Server) -> str:
    return server.base_url.partition(":")[0]


def _url(server: Server, scheme: str) -> URL:
    """Its address under that scheme, at the port that it is set to."""
    url = URL(server.base_url, encoded=True)
    return URL.build(scheme=scheme, host=url.raw_host or "", port=url.port, path=url.raw_path, encoded=True)
