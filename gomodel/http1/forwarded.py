"""Which client a request is from behind proxies: the last address of X-Forwarded-For that is none of theirs.

Decides whom to believe, by uvicorn's rule and variable (FORWARDED_ALLOW_IPS): whoever connects can write the field, so
it counts only from proxies that the operator named, and only as far as their own entries reach. For logs and listings;
nothing is decided by it, and nothing of it is sent on. Pure; knows nothing of requests.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

EVERYBODY = "*"
UNIX = "unix"  # what a peer on a unix socket is called

# More proxies than anybody has in a row; a client could name thousands.
MAX_HOPS = 32
# An IPv6 address in brackets, with a port.
_LONGEST = 64


class _Hop(NamedTuple):
    address: str
    trusted: bool


class TrustedProxies:
    """The proxies that are believed; made once per configuration."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries`: addresses, networks, `unix` for whoever connects over the unix socket, `*` for everybody."""
        names = frozenset(entries)
        self._everybody = EVERYBODY in names
        self._unix = UNIX in names
        self._networks = tuple(ipaddress.ip_network(name) for name in sorted(names - {EVERYBODY, UNIX}))
        self._hop = lru_cache(maxsize=4096)(self._judged)

    def client(self, peer: str, fields: Sequence[str]) -> str:
        """The client's address, for a connection from `peer` and the values of all its X-Forwarded-For fields.

        Behind an entry that is no address nobody is believed any more. When all are proxies it is the first of them.
        """
        if not fields or not self._believes(peer):
            return peer
        client, chain = peer, ",".join(fields)
        if self._everybody:
            first = self._known(chain.partition(",")[0])
            return peer if first is None else first.address
        for entry in reversed(chain.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            hop = self._known(entry)
            if hop is None:
                break
            client = hop.address
            if not hop.trusted:
                break
        return client

    def _believes(self, peer: str) -> bool:
        if self._everybody or peer == UNIX:
            return self._everybody or self._unix
        hop = self._known(peer)
        return hop is not None and hop.trusted

    def _known(self, text: str) -> _Hop | None:
        text = text.strip(" \t")
        return self._hop(text) if len(text) <= _LONGEST else None

    def _judged(self, text: str) -> _Hop | None:
        host = text
        if text.startswith("["):
            host = text[1:].partition("]")[0]
        elif text.count(":") == 1:
            host = text.partition(":")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or ipaddress.IPv6Address(int(address))  # a zone may be any text
        return _Hop(str(address), any(address in network for network in self._networks))
