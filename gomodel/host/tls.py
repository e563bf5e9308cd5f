"""TLS for clients: the context that shows the configured certificate, loaded from memory.

Decides what is wrong with a certificate or a key, in words for the operator. Opens no file and no connection.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

from ..config.settings import Certificate, Config, ConfigError


def tls_context(config: Config) -> ssl.SSLContext | None:
    """What serves TLS by the certificate of `config`, None without one. Opens no file. Raises ConfigError."""
    if config.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, config.certificate)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # during which nothing could be written
    return context


def load_certificate(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Load the certificate and its key; handshakes from then on show it. Raises ConfigError."""
    try:
        with _as_file(certificate.chain) as chain, _as_file(certificate.key) as key:
            context.load_cert_chain(chain, key, password=_no_passphrase)
    except _PassphraseAsked:
        raise ConfigError(["TLS_KEY_FILE: the key is encrypted; store it without a passphrase"]) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(["TLS_KEY_FILE: the key does not belong to the certificate in TLS_CERT_FILE"]) from None
        raise ConfigError(["TLS_CERT_FILE, TLS_KEY_FILE: one of the files holds no valid PEM"]) from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The path of a file in memory: OpenSSL takes certificates from files only (python/cpython issue 60691)."""
    with open(os.memfd_create("pem"), "wb") if hasattr(os, "memfd_create") else TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


class _PassphraseAsked(Exception):
    pass


def _no_passphrase() -> str:
    raise _PassphraseAsked
