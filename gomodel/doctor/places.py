"""Where the doctor asks: an instance itself, or a gateway before it, with the key and the TLS context it takes.

Decides how a URL of the command line and the servers of the configuration become such places. Opens no connection.
"""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..config.header_fields import bearer_token
from ..config.settings import Config, InstanceConfig, Secret

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Place:
    """`prefix` stands before every path; `shown` is the URL as a report may say it, without credentials."""

    shown: str
    host: str
    port: int
    prefix: str = ""
    unix_socket: str | None = None
    tls: ssl.SSLContext | None = None
    key: Secret | None = field(default=None, repr=False)
    model: str = ""

    @property
    def authority(self) -> str:
        """The Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (80, 443) else f"{host}:{self.port}"


def place_of(url: str, key: Secret | None, *, ca_pem: str | None = None, insecure: bool = False) -> Place:
    """The place that a base URL names, with or without /v1 at its end, or `unix:` and the path of a socket.

    Raises ValueError for one that is none.
    """
    if url.startswith("unix:/"):
        path = url.removeprefix("unix:")
        return Place(f"unix:{path}", "localhost", _PORTS["http"], unix_socket=path, key=key)
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
    except ValueError:
        raise ValueError("its host is no IPv6 address in brackets") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("it is no http:// or https:// URL")
    try:
        given = parts.port
    except ValueError:
        raise ValueError("its port is no number up to 65535") from None
    port = given or _PORTS[parts.scheme]
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = f"{parts.scheme}://{host}" + (f":{given}" if given else "") + prefix
    context = _context(ca_pem, insecure=insecure) if parts.scheme == "https" else None
    return Place(where, parts.hostname, port, prefix, tls=context, key=key)


def key_in(path: Path) -> Secret:
    """The key in the first line of a file, as a gateway's own key file may hold several.

    Raises OSError, and ValueError for what cannot be sent.
    """
    # latin-1 cannot fail; bytes outside ASCII are then refused as they are in a variable.
    first = re.split(r"\r?\n", path.read_bytes().decode("latin-1"), maxsplit=1)[0]
    if not first:
        raise ValueError("its first line is empty; the key stands there")
    return Secret(bearer_token(first))


def of_instance(instance: InstanceConfig) -> Place:
    """The first server of an instance: what a request meets when nothing stands before it."""
    server = instance.servers[0]
    place = place_of(server.base_url, instance.api_key, ca_pem=instance.ca_pem)
    return Place(
        str(server).removesuffix("/v1") if server.unix_socket else place.shown,
        server.number or place.host,
        place.port,
        place.prefix,
        server.unix_socket,
        place.tls,
        place.key,
    )


def of_gateway(config: Config, key: Secret | None) -> Place:
    """The gateway that the configuration describes, asked on its own host."""
    if config.port is None:
        path = config.unix_socket
        return Place(f"unix:{path}{config.base_path}", "localhost", 80, config.base_path.rstrip("/"), path, key=key)
    host = "localhost" if config.host in ("", "::", "0.0.0.0") else config.host
    scheme = "http" if config.certificate is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.port}{config.base_path}"
    # By a name that its certificate need not have.
    return place_of(url, key, insecure=True)


def _context(ca_pem: str | None, *, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca_pem)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
