"""Values that say where something is: hosts, sockets, paths, origins and networks; text in, value out.

Decides which spellings are accepted and what is normal among them. Resolves no name, opens nothing. As in `values`, a
message completes the sentence "<NAME>: ..."; URLs are never quoted in one, because they may hold a secret.
"""

import ipaddress
import os
import re
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from .values import comma_list, quoted

# sun_path of sockaddr_un holds 108 bytes including the closing NUL (unix(7)).
_UNIX_PATH_BYTES = 107

_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_PATH_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")

# Extensions of browsers and editors have schemes and ids of their own.
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def proxies(text: str) -> tuple[str, ...]:
    """A comma list of addresses and networks, `unix`, or `*` for everybody; uvicorn's FORWARDED_ALLOW_IPS."""
    accepted = "use a comma list of addresses and networks such as 10.0.0.7,10.1.0.0/16, or unix, or *"
    entries = comma_list(text)
    for entry in entries:
        try:
            if entry not in {"*", "unix"}:
                ipaddress.ip_network(entry)
        except ValueError as error:
            hint = ": bits are set behind its prefix" if "host bits" in str(error) else ""
            raise ValueError(f"{quoted(entry)} is not accepted{hint}; {accepted}") from None
    return entries


def origins(text: str) -> tuple[str, ...]:
    """A comma list of origins as browsers write them (RFC 6454 6.2), lower case; `*` is all of them."""
    entries = tuple(dict.fromkeys(entry.lower() for entry in comma_list(text)))
    for entry in entries:
        example = "use a scheme and host as in https://app.example or http://localhost:3000, or *"
        if entry in {"*", "null"}:
            continue
        match = _ORIGIN.fullmatch(entry)
        if match is None:
            raise ValueError(f"{quoted(entry)} is not an origin; {example}")
        if match["port"] and match["port"] == _DEFAULT_PORTS.get(match["scheme"]):
            raise ValueError(f"{quoted(entry)} is never sent with its default port; leave it out")
    return entries


def listen_host(text: str) -> str:
    """An address or host name to listen on, without brackets, scheme or port."""
    bracketed = text.startswith("[") and text.endswith("]") and ":" in text
    host = text[1:-1] if bracketed else text
    if is_address(host) or _is_host_name(host):
        return host
    raise ValueError(f"{quoted(text)} is not a host; use an address or name alone, such as 0.0.0.0, :: or localhost")


def socket_path(text: str) -> str:
    """The absolute path of a unix socket, short enough for unix(7)."""
    if not is_socket_path(text):
        accepted = f"use an absolute path of at most {_UNIX_PATH_BYTES} bytes, such as /run/gomodel.sock"
        raise ValueError(f"{quoted(text)} is not a socket path; {accepted}")
    return text


def directory(text: str) -> str:
    """The absolute path of a directory."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{quoted(text)} is not an absolute path; use one such as /var/lib/gomodel")
    return text


def collector_url(text: str) -> str:
    """Where an OpenTelemetry collector takes spans over HTTP."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        good = False
    if not good or "@" in text or parts.query or parts.fragment:
        raise ValueError("is no URL such as http://collector:4318; a credential goes to OTEL_EXPORTER_OTLP_HEADERS")
    try:
        installed = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise ValueError("needs the OpenTelemetry SDK: pip install gomodel[otel]")
    return text


def database_url(text: str) -> str:
    """The URL of a PostgreSQL database. It may hold a password, so no message quotes it."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("postgresql", "postgres") and len(parts.path) > 1
        good = good and bool(parts.hostname or parts.query) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        good = False
    if not good:
        raise ValueError("is not the URL of a PostgreSQL database; use postgresql://user:password@host:5432/name")
    return text


def route_path(text: str) -> str:
    """A path of our own: `""` for `/`, else `/a/b` without trailing slash. No `%`, so that raw bytes compare."""
    if not text.startswith("/"):
        raise ValueError(f"{quoted(text)} does not start with /; use a path such as /gateway")
    if "%" in text:
        raise ValueError(f"{quoted(text)} holds a percent sign; use a plain path such as /gateway")
    try:
        return normal_path(text)
    except ValueError as error:
        raise ValueError(f"{quoted(text)} {error}; use a plain path such as /gateway") from None


def normal_authority(authority: str) -> str:
    """Host and port of a URL (RFC 3986 3.2): lower case, without an empty port. Raises ValueError, never quoting it."""
    if "@" in authority:
        raise ValueError("holds a user or password; set the instance's API_KEY variable instead")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("has a port that is no number, or an IPv6 address without brackets")
    host, port = match["host"].lower(), match["port"]
    if not host:
        raise ValueError("has no host")
    if not (is_address(host[1:-1], 6) if host.startswith("[") else _is_host_name(host)):
        raise ValueError("has a host that is neither a name nor an address")
    if port and not (len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("has a port outside 1 to 65535")
    return f"{host}:{int(port)}" if port else host


def same_authority(authority: str) -> str:
    """What all spellings of a normal authority have in common; anything else as it is.

    They differ in the zeros of an IPv6 address (RFC 5952) and in the dot behind a name. What is connected to and sent
    as `Host` stays as written: a name with that dot is looked up without search domains.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return authority
    host, port = match["host"], match["port"]
    if host.startswith("["):
        host = ipaddress.IPv6Address(host[1:-1]).compressed
    return f"{host.removesuffix('.')} {port}"


def normal_path(path: str) -> str:
    """The path of a URL as it stands, without one trailing slash. Raises ValueError, never quoting it."""
    path = path.removesuffix("/")
    for segment in path.split("/")[1:]:
        if not segment:
            raise ValueError("has an empty path segment")
        if unquote(segment) in {".", ".."}:
            raise ValueError("has a dot segment in its path")
        if not _PATH_SEGMENT.fullmatch(segment):
            raise ValueError("has a character in its path that does not belong there unencoded")
    return path


def is_socket_path(path: str) -> bool:
    """Whether it is absolute and short enough for unix(7)."""
    absolute = path.startswith("/") and not path.endswith("/") and path.isprintable()
    return absolute and len(os.fsencode(path)) <= _UNIX_PATH_BYTES


def is_address(host: str, version: int | None = None) -> bool:
    """Whether it is an IP address, of this version where one is given; without brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return version in {None, address.version} and (version is None or "%" not in host)


def _is_host_name(host: str) -> bool:
    # A name that ends in a number is an IPv4 address or nothing (WHATWG URL, host parsing): 10.0.0.256 is a typo.
    numeric = host.rstrip(".").rpartition(".")[2].isdigit()
    return _HOST_NAME.fullmatch(host) is not None and (not numeric or is_address(host, 4))
