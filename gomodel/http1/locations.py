"""Redirects and other addresses in an instance's answer (Location and its kin), as the gateway's own paths.

An instance builds them from the Host it was asked under, which is its own address: a client that followed one would go
past the gateway, with its prompt and without the instance's key. What lies at the instance becomes a path of the
gateway, what leads anywhere else stays. Pure; knows nothing of connections.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from functools import partial
from socket import inet_aton, inet_ntoa
from typing import NamedTuple
from urllib.parse import unquote

# RFC 3986 4.1, as far as an http server's own address can be spelled; and as browsers read it (WHATWG URL 4.4), to whom
# a backslash is a slash, two or more begin a host, and behind a scheme any number does.
_REFERENCE = re.compile(r"(?:(?:(https?):[/\\]*|[/\\]{2,})([^/\\?#]*))?([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
# They drop these as well: tabs anywhere, controls and blanks at both ends.
_BLANKS = bytes(range(33)).decode()
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LINK = re.compile(r"(<)([^<>]*)")
# Behind the seconds comes a semicolon, a comma or a blank, and `url=` may be left out (HTML 4.2.5.3).
_REFRESH = re.compile(r"((?:\A[\s\d.]*(?:[;,]|\s)\s*)(?:url\s*=\s*)?[\"']?|url\s*=\s*[\"']?)([^\"']*)", re.IGNORECASE)
# An IPv4 address in one to four parts, each decimal, octal or hexadecimal (WHATWG URL 3.5).
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
_PORTS = {"http": "80", "https": "443"}


class Site(NamedTuple):
    """An instance as one request sees it, and where the gateway serves the same paths."""

    scheme: str
    hosts: Collection[str]  # what it is called, lower case: its configured host, the address it was reached at
    port: str
    base_path: str
    root_path: str
    below_base: bool  # whether the request went below the base URL
    target: str  # of the request at the instance, with its query
    own_base: str  # the gateway's path of the base URL
    own_root: str  # the gateway's path of the root


def localised(lines: Iterable[bytes], site: Site, status: int) -> list[bytes]:
    """Header lines with every address at the instance mapped to the gateway's path for it; contract section 6.

    In Location, Content-Location, Link and Refresh. A redirect to what was asked for, by another scheme or port of the
    instance, loses its Location: as a path it would lead back here for ever, and as it stands past the gateway.
    """
    result = []
    for line in lines:
        name, _, value = line.partition(b":")
        rewrite = _REWRITES.get(name.lower())
        if rewrite is None:
            result.append(line)
            continue
        text = value.strip().decode("latin-1")
        if not (300 <= status < 400 and name.lower() == b"location" and _leads_back(text, site)):
            result.append(b"%b: %b\r\n" % (name, rewrite(text, site).encode("latin-1")))
    return result


def _address(text: str, site: Site) -> str:
    """The reference as it goes to the client."""
    _, authority, path, rest = _parts(text)
    if authority is None and (_SCHEME.match(path) or not path):
        return text  # another scheme, or the query or fragment of the same address
    if authority is not None and not _at_the_instance(authority, site):
        return text
    if authority is None and not path.startswith("/"):
        here = site.target.partition("?")[0]
        path = here[: here.rfind("/") + 1] + path
    return _own(_without_dots(path), site) + rest


def _leads_back(text: str, site: Site) -> bool:
    """Whether this is what was asked for, by another scheme or port."""
    scheme, authority, path, rest = _parts(text)
    if authority is None or not _at_the_instance(authority, site):
        return False
    scheme, port = (scheme or site.scheme).lower(), _split(authority)[1]
    same = (scheme, port or _PORTS[scheme]) == (site.scheme, site.port or _PORTS[site.scheme])
    return not same and _without_dots(path) + rest.partition("#")[0] == site.target


def _parts(text: str) -> tuple[str | None, str | None, str, str]:
    """Scheme, authority, path, and query with fragment."""
    text = text.strip(_BLANKS).replace("\t", "")
    scheme, authority, path, rest = _REFERENCE.fullmatch(text).groups()  # type: ignore[union-attr]
    return scheme, authority, path.replace("\\", "/"), rest


def _at_the_instance(authority: str, site: Site) -> bool:
    host = _usual(_split(authority)[0])
    return any(host == _usual(each.rstrip(".")) for each in site.hosts) or _is_here(host)


def _own(path: str, site: Site) -> str:
    """The gateway's path for an absolute one at the instance."""
    if (site.below_base or site.base_path != site.root_path) and f"{path}/".startswith(f"{site.base_path}/"):
        path = site.own_base + path[len(site.base_path) :]
    elif f"{path}/".startswith(f"{site.root_path}/"):
        path = site.own_root + path[len(site.root_path) :]
    else:
        path = site.own_root + path  # of an instance that does not know under which prefix it is served
    return "/" + path.lstrip("/")  # two would make a host of what follows


def _split(authority: str) -> tuple[str, str]:
    """Host, without brackets, and port."""
    host, port = re.fullmatch(r"(.*?)(?::([0-9]*))?", authority.rpartition("@")[2], re.DOTALL).groups()  # type: ignore[union-attr]
    return host.strip("[]").rstrip("."), port or ""


def _usual(host: str) -> str:
    """The same as most would write it: without percent-encoding, an IPv4 address as four decimal numbers."""
    host = unquote(host).lower()
    try:
        if _NUMBERS.fullmatch(host):
            return inet_ntoa(inet_aton(host))
        address = ipaddress.ip_address(host)
    except (OSError, ValueError):
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_here(host: str) -> bool:
    """Whether this can only be the speaker itself: loopback, or the address that means all of its own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _without_dots(path: str) -> str:
    """The path with its dot segments resolved, encoded ones included, as clients do it (RFC 3986 5.2.4)."""
    if "." not in path and "%2" not in path:
        return path or "/"
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in segments:
        plain = unquote(segment)
        if plain == "..":
            del kept[-1:]
        elif plain != ".":
            kept.append(segment)
    plain = unquote(last)
    if plain == "..":
        del kept[-1:]
    kept.append("" if plain in {".", ".."} else last)
    return "/" + "/".join(kept)


def _within(pattern: re.Pattern[str], text: str, site: Site) -> str:
    """The text with each address that `pattern` finds mapped."""
    return pattern.sub(lambda found: found[1] + _address(found[2], site), text)


_REWRITES: dict[bytes, Callable[[str, Site], str]] = {
    b"location": _address,
    b"content-location": _address,
    b"link": partial(_within, _LINK),
    b"refresh": partial(_within, _REFRESH),
}
# Lower case.
LOCATING_FIELDS = frozenset(_REWRITES)
