"""One environment value at a time: text in, a quantity out, or a ValueError saying what is wrong and what is accepted.

Decides how booleans, durations, sizes, numbers, lists, paths, hosts, keys and upstream URLs are spelled. Knows no
variable's name, reads no file and no environment. A message completes the sentence "<NAME>: ...". Keys and URLs are
never quoted in one, because either may hold a secret; every other value is.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple
from urllib.parse import unquote

# Event loops clamp or overflow timers beyond this (uvloop: 100 years); a longer value is a typo in any case.
_LONGEST_S = Decimal(100 * 365 * 24 * 3600)
# sun_path of sockaddr_un holds 108 bytes including the closing NUL (unix(7)).
_UNIX_PATH_BYTES = 107

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_UNITS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_DURATION = re.compile("".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _UNITS))
_SIZE = re.compile(r"([0-9]{1,15})(?:([KMG])(?:i?B)?|B)?", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{[^}]*\}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VISIBLE = re.compile(r"[!-~]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_PATH_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")

# What the client sends under these names never reaches vLLM; what does is about the connection to vLLM.
_WRITTEN_ANEW = frozenset({"connection", "host", "upgrade", "x-request-id"})

# Extensions of browsers and editors have schemes and ids of their own.
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


class UpstreamUrl(NamedTuple):
    """Where an instance listens. `base_url` has no trailing slash; on a unix socket its host is `localhost`."""

    base_url: str
    unix_socket: str | None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def boolean(text: str) -> bool:
    """true/1/yes/on or false/0/no/off in any case; contract section 1."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"{_quoted(text)} is not a boolean; use true, 1, yes, on or false, 0, no, off") from None


def duration_s(text: str) -> float:
    """Seconds from `600`, `500ms`, `30s`, `10m`, `1h30m` (largest unit first, decimals allowed), 0 included."""
    accepted = "use seconds (600) or 500ms, 30s, 10m, 1h30m"
    if text.startswith("-"):
        raise ValueError(f"{_quoted(text)} is negative; {accepted}")
    match = _DURATION.fullmatch(f"{text}s" if re.fullmatch(_NUMBER, text) else text)
    if not text or match is None:
        raise ValueError(f"{_quoted(text)} is not a duration; {accepted}")
    total = sum((Decimal(count) * _UNITS[unit] for unit, count in match.groupdict().items() if count), Decimal(0))
    if total > _LONGEST_S:
        raise ValueError(f"{_quoted(text)} is longer than 100 years; {accepted}")
    return float(total)


def timeout_s(text: str) -> float:
    """A duration in seconds that must be longer than 0, since a timeout of 0 would fail everything."""
    seconds = duration_s(text)
    if seconds <= 0:
        raise ValueError(f"{_quoted(text)} would time out at once; use a duration longer than 0, such as 500ms or 30s")
    return seconds


def optional_timeout_s(text: str) -> float | None:
    """A duration in seconds, or None for `0` and `none`, which both mean: no limit."""
    return None if text.lower() == "none" else duration_s(text) or None


def size_bytes(text: str) -> int:
    """Bytes, at least 1, from `1048576`, `500K`, `10M`, `1G`: 1024-based, any case, a trailing B or iB allowed."""
    accepted = "use bytes or 500K, 10M, 1G"
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{_quoted(text)} is not a size; {accepted}")
    size = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[(match[2] or "").upper()]
    if size == 0:
        raise ValueError(f"{_quoted(text)} would refuse every body; {accepted}")
    return size


def integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser for decimal integers from `minimum` to `maximum`, both included."""

    def parse(text: str) -> int:
        # ASCII digits only: int() also takes "1_000", " 7" and the digits of every script.
        if re.fullmatch(r"[0-9]{1,15}", text) and minimum <= int(text) <= maximum:
            return int(text)
        limits = f"{minimum} or more" if maximum == 2**31 - 1 else f"from {minimum} to {maximum}"
        raise ValueError(f"{_quoted(text)} is not accepted; use an integer, {limits}")

    return parse


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """A parser for plain decimal numbers from `minimum` to `maximum`, both included; no exponent, inf or nan."""

    def parse(text: str) -> float:
        if re.fullmatch(_NUMBER, text) and minimum <= float(text) <= maximum:
            return float(text)
        raise ValueError(f"{_quoted(text)} is not accepted; use a number from {minimum:g} to {maximum:g}")

    return parse


def choice(*words: str, aliases: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """A parser for one of `words` in any case, returned in lower case; `aliases` maps other spellings to a word."""
    accepted = {word: word for word in words} | dict(aliases or {})

    def parse(text: str) -> str:
        try:
            return accepted[text.lower()]
        except KeyError:
            raise ValueError(f"{_quoted(text)} is not accepted; use {', '.join(accepted)}") from None

    return parse


def comma_list(text: str) -> tuple[str, ...]:
    """Entries between commas, trimmed, without empty and repeated ones, in their order; at least one."""
    entries = tuple(dict.fromkeys(entry for part in text.split(",") if (entry := part.strip())))
    if not entries:
        raise ValueError(f"{_quoted(text)} names nothing; use a comma list such as a,b")
    for entry in entries:
        if not entry.isprintable():
            raise ValueError(f"{_quoted(entry)} holds a control character; use a comma list such as a,b")
    return entries


def lower_set(text: str) -> frozenset[str]:
    """A comma list whose case and order do not matter."""
    return frozenset(entry.lower() for entry in comma_list(text))


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
            raise ValueError(f"{_quoted(entry)} is not accepted{hint}; {accepted}") from None
    return entries


def header_names(text: str) -> frozenset[str]:
    """A comma list of header field names (RFC 9110 5.1), lower case. Those that every request upstream needs are
    refused: without framing headers the body could not be delimited (RFC 9112 6)."""
    names = lower_set(text)
    for name in sorted(names):
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{_quoted(name)} is not a header name; use a comma list such as X-Vllm-Priority,X-Foo")
        if name in {"content-length", "transfer-encoding"}:
            raise ValueError(f"{_quoted(name)} delimits the body and cannot be stripped")
        if name in _WRITTEN_ANEW:
            raise ValueError(f"{_quoted(name)} is not the client's: gomodel writes its own, which cannot be stripped")
    return names


def origins(text: str) -> tuple[str, ...]:
    """A comma list of origins as browsers write them (RFC 6454 6.2), lower case; `*` is all of them."""
    entries = tuple(dict.fromkeys(entry.lower() for entry in comma_list(text)))
    for entry in entries:
        example = "use a scheme and host as in https://app.example or http://localhost:3000, or *"
        if entry in {"*", "null"}:
            continue
        match = _ORIGIN.fullmatch(entry)
        if match is None:
            raise ValueError(f"{_quoted(entry)} is not an origin; {example}")
        if match["port"] and match["port"] == _DEFAULT_PORTS.get(match["scheme"]):
            raise ValueError(f"{_quoted(entry)} is never sent with its default port; leave it out")
    return entries


def bearer_token(text: str) -> str:
    """A key that can travel in `Authorization: Bearer <key>`: visible ASCII. The message never quotes it."""
    if not _VISIBLE.fullmatch(text):
        raise ValueError(
            "holds whitespace, a control character or a character outside ASCII, "
            "so it cannot be sent as a bearer token; use visible ASCII characters only"
        )
    return text


def has_reference(text: str) -> bool:
    """Whether a `${...}` was left standing: whoever was to fill it in did not know the name."""
    return _REFERENCE.search(text) is not None


def listen_host(text: str) -> str:
    """An address or host name to listen on, without brackets, scheme or port."""
    bracketed = text.startswith("[") and text.endswith("]") and ":" in text
    host = text[1:-1] if bracketed else text
    if _is_address(host) or _is_host_name(host):
        return host
    raise ValueError(f"{_quoted(text)} is not a host; use an address or name alone, such as 0.0.0.0, :: or localhost")


def socket_path(text: str) -> str:
    """The absolute path of a unix socket, short enough for unix(7)."""
    if not _is_socket_path(text):
        accepted = f"use an absolute path of at most {_UNIX_PATH_BYTES} bytes, such as /run/gomodel.sock"
        raise ValueError(f"{_quoted(text)} is not a socket path; {accepted}")
    return text


def route_path(text: str) -> str:
    """A path of our own: `""` for `/`, else `/a/b` without trailing slash. No `%`, so that raw bytes compare."""
    if not text.startswith("/"):
        raise ValueError(f"{_quoted(text)} does not start with /; use a path such as /gateway")
    if "%" in text:
        raise ValueError(f"{_quoted(text)} holds a percent sign; use a plain path such as /gateway")
    try:
        return _normal_path(text)
    except ValueError as error:
        raise ValueError(f"{_quoted(text)} {error}; use a plain path such as /gateway") from None


def upstream_url(text: str) -> UpstreamUrl:
    """`http://host:port/v1`, `https://...` or `unix:///path.sock:/v1`; contract section 1.

    Scheme and host become lower case, an empty port and one trailing slash go, the path stays as written. Raises
    ValueError, never quoting the URL, for user information, query, fragment, dot segments and all that is no URL.
    """
    example = "use http://host:8000/v1, https://host/v1 or unix:///run/vllm.sock:/v1"
    if not _VISIBLE.fullmatch(text):
        raise ValueError(f"holds whitespace, a control character or a character outside ASCII; {example}")
    if "?" in text or "#" in text:
        raise ValueError(f"has a query or fragment; {example}")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in {"http", "https", "unix"}:
        raise ValueError(f"is not an http, https or unix URL; {example}")
    try:
        if scheme == "unix":
            path, colon, below = rest.rpartition(":")
            if not colon or not below.startswith("/"):
                path, below = rest.removesuffix(":"), ""
            if not _is_socket_path(path):
                raise ValueError(f"has no absolute socket path of at most {_UNIX_PATH_BYTES} bytes")
            return UpstreamUrl(f"http://localhost{_normal_path(below)}", path)
        authority, slash, below = rest.partition("/")
        return UpstreamUrl(f"{scheme}://{_normal_authority(authority)}{_normal_path(slash + below)}", None)
    except ValueError as error:
        raise ValueError(f"{error}; {example}") from None


def _normal_authority(authority: str) -> str:
    if "@" in authority:
        raise ValueError("holds a user or password; set the instance's API_KEY variable instead")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("has a port that is no number, or an IPv6 address without brackets")
    host, port = match["host"].lower(), match["port"]
    if not host:
        raise ValueError("has no host")
    if not (_is_address(host[1:-1], 6) if host.startswith("[") else _is_host_name(host)):
        raise ValueError("has a host that is neither a name nor an address")
    if port and not (len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("has a port outside 1 to 65535")
    return f"{host}:{int(port)}" if port else host


def _normal_path(path: str) -> str:
    path = path.removesuffix("/")
    for segment in path.split("/")[1:]:
        if not segment:
            raise ValueError("has an empty path segment")
        if unquote(segment) in {".", ".."}:
            raise ValueError("has a dot segment in its path")
        if not _PATH_SEGMENT.fullmatch(segment):
            raise ValueError("has a character in its path that does not belong there unencoded")
    return path


def _is_socket_path(path: str) -> bool:
    absolute = path.startswith("/") and not path.endswith("/") and path.isprintable()
    return absolute and len(os.fsencode(path)) <= _UNIX_PATH_BYTES


def _is_address(host: str, version: int | None = None) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return version in {None, address.version} and (version is None or "%" not in host)


def _is_host_name(host: str) -> bool:
    # A name that ends in a number is an IPv4 address or nothing (WHATWG URL, host parsing): 10.0.0.256 is a typo.
    numeric = host.rstrip(".").rpartition(".")[2].isdigit()
    return _HOST_NAME.fullmatch(host) is not None and (not numeric or _is_address(host, 4))
