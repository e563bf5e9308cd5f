"""Which web pages may use the gateway: CORS, and what keeps other sites out of a gateway without a key.

Decides by the Origin and the Host that browsers send and pages cannot change (Fetch standard, CORS protocol; RFC 6454).
Pure; knows nothing of connections or routes.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

ANY = "*"
_FIELD_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{0,4096}")
_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
# As long as Chromium keeps an answer to a preflight; a page would otherwise ask before each request.
_MAX_AGE_S = 7200
# Suffixes that no public name can have, so that nobody can let one lead here (RFC 6761, RFC 6762, ICANN for .internal).
_PRIVATE = (".localhost", ".local", ".internal", ".test")


class Origins:
    """The origins of CORS_ALLOW_ORIGINS, and what their pages are told."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """`allowed`: as browsers write them, in lower case, or ANY."""
        self._allowed = frozenset(each.encode() for each in allowed)
        self._any = ANY.encode() in self._allowed
        self._hosts = frozenset(_authority(each) for each in self._allowed)

    def allow(self, origin: bytes) -> bool:
        """Whether pages of this origin may use the API."""
        return self._any or origin.lower() in self._allowed

    def serves(self, host: bytes) -> bool:
        """Whether the gateway may be known by this name, because a page served under it may use the API."""
        return self._any or _authority(host) in self._hosts

    def fields(self, origin: bytes | None) -> dict[str, str]:
        """What goes with every answer. Without Allow-Credentials, since no cookie means anything here."""
        if self._any:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": ANY}
        if origin is None or not self.allow(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin.decode("latin-1"),
            "Access-Control-Expose-Headers": ANY,
        }

    def preflight(self, headers: str, *, private_network: bool) -> dict[str, str]:
        """What the answer to a preflight says besides; `headers` is what the page wants to send."""
        fields = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": str(_MAX_AGE_S)}
        if headers and _FIELD_NAMES.fullmatch(headers):
            # Named one by one: "*" does not stand for Authorization.
            fields["Access-Control-Allow-Headers"] = headers
        if private_network:
            fields["Access-Control-Allow-Private-Network"] = "true"
        fields["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        return fields


def same_site(origin: bytes, host: bytes | None) -> bool:
    """Whether a page of `origin` was served under `host`. TLS may end in front of the gateway, so no scheme counts."""
    return host is not None and _authority(origin) == _authority(host)


@lru_cache(maxsize=64)
def is_private_name(host: bytes) -> bool:
    """Whether a Host is an address, or a name that nobody can register and point here (DNS rebinding).

    One without a dot is in no public zone: it comes from the machine's own files or its network.
    """
    name = re.sub(r":[0-9]*\Z", "", host.decode("latin-1").lower()).rstrip(".")
    return "." not in name or name.endswith(_PRIVATE) or is_address(name)


def is_loopback(host: str) -> bool:
    """Whether who listens on `host` is reached from its own machine alone."""
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _authority(origin: bytes) -> bytes:
    """Host and port of an origin or a Host field, without a default port."""
    return re.sub(rb":(?:80|443)?\Z", b"", origin.lower().rpartition(b"://")[2])
