"""What a failed connect means, in the words of RFC 9209: refused, no route, no such name, no trust, no TLS, too slow.

Decides the code by which `relay` and operators tell them apart. The text of an exception stays here; it may hold an
address. Knows nothing of who wanted the connection.
"""

import errno

from aiohttp import ClientConnectorError
from aiohttp.client_exceptions import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorSSLError,
)

from ..errors import ConnectError, GatewayError, LoopDetected, Overloaded, UntrustedCertificate, UpstreamTimeout
from ..host import descriptors
from .connector import LeadsBack

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


def connect_failure(instance: str, exc: BaseException) -> GatewayError:
    """The failure of a connect to `instance`, from what aiohttp raised."""
    if isinstance(exc, LeadsBack):
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
