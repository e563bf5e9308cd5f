"""What a failed connect means: its code, what may be told of it, and whether it was the instance's failure."""

import errno
import ssl
from typing import Any

import pytest
from aiohttp import ClientConnectorError, ServerTimeoutError
from aiohttp.client_exceptions import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorSSLError,
)
from aiohttp.client_reqrep import ConnectionKey

from gomodel.errors import ConnectError, LoopDetected, Overloaded, UntrustedCertificate, UpstreamTimeout
from gomodel.upstream.connect_failure import connect_failure
from gomodel.upstream.connector import LeadsBack

# The text of an exception may hold an address.
CANARY = "10.9.8.7"
KEY = ConnectionKey(CANARY, 443, True, True, None, None, None)


def connect(number: int, kind: type[OSError] = OSError) -> ClientConnectorError:
    return ClientConnectorError(KEY, kind(number, CANARY))


def certificate(code: int | None) -> ClientConnectorCertificateError:
    error = ssl.CertificateError(CANARY)
    if code is not None:
        error.verify_code = code
    return ClientConnectorCertificateError(KEY, error)


def tls(reason: str) -> ClientConnectorSSLError:
    error = ssl.SSLError(1, CANARY)
    error.reason = reason
    return ClientConnectorSSLError(KEY, error)


def name(number: int) -> ClientConnectorDNSError:
    return ClientConnectorDNSError(KEY, OSError(number, CANARY))


FAILURES: list[tuple[Any, type[Exception], str, str]] = [
    (LeadsBack(), LoopDetected, "proxy_loop_detected", "is this gateway itself"),
    (TimeoutError(CANARY), UpstreamTimeout, "connection_timeout", "did not accept a connection in time"),
    (ServerTimeoutError(CANARY), UpstreamTimeout, "connection_timeout", "did not accept a connection in time"),
    *(
        (certificate(code), UntrustedCertificate, "tls_certificate_error", "is signed by nobody trusted here")
        for code in (18, 19, 20, 21)
    ),
    (certificate(9), ConnectError, "tls_certificate_error", "is not valid yet"),
    (certificate(10), ConnectError, "tls_certificate_error", "has expired"),
    (certificate(62), ConnectError, "tls_certificate_error", "is for another host name"),
    (certificate(64), ConnectError, "tls_certificate_error", "is for another address"),
    (certificate(22), ConnectError, "tls_certificate_error", "is not valid."),
    (certificate(None), ConnectError, "tls_certificate_error", "is not valid."),
    *(
        (tls(reason), ConnectError, "tls_protocol_error", "does not speak TLS")
        for reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
    ),
    (tls("PACKET_LENGTH_TOO_LONG"), ConnectError, "tls_protocol_error", "does not speak TLS"),
    (tls("SSLV3_ALERT_HANDSHAKE_FAILURE"), ConnectError, "tls_protocol_error", "failed"),
    *((connect(number), Overloaded, "connection_limit", "no free file descriptor") for number in (24, 23)),
    (OSError(errno.EMFILE, CANARY), Overloaded, "connection_limit", "no free file descriptor"),
    (name(errno.EMFILE), Overloaded, "connection_limit", "no free file descriptor"),
    (name(-2), ConnectError, "dns_error", "could not be resolved"),
    (UnicodeError(CANARY), ConnectError, "dns_error", "could not be resolved"),
    (connect(errno.EHOSTUNREACH), ConnectError, "destination_ip_unroutable", "no route"),
    (connect(errno.ENETUNREACH), ConnectError, "destination_ip_unroutable", "no route"),
    (connect(errno.ECONNRESET, ConnectionResetError), ConnectError, "connection_terminated", "reset the connection"),
    (ConnectionResetError(errno.ECONNRESET, CANARY), ConnectError, "connection_terminated", "reset the connection"),
    (connect(errno.ECONNREFUSED, ConnectionRefusedError), ConnectError, "connection_refused", "refused"),
    (connect(errno.ENOENT, FileNotFoundError), ConnectError, "connection_refused", "refused"),
    (ClientConnectionError(CANARY), ConnectError, "connection_refused", "refused"),
]


@pytest.mark.parametrize(("raised", "kind", "code", "said"), FAILURES)
def test_a_failed_connect_has_a_code_and_tells_no_address(raised, kind, code, said):
    error = connect_failure("vllm", raised)
    assert (type(error), error.code) == (kind, code)
    assert said in error.message + "."
    assert CANARY not in error.message


def test_a_missing_descriptor_passes_in_a_second():
    assert connect_failure("vllm", OSError(errno.EMFILE, "")).headers == {"Retry-After": "1"}
