"""What all connections of one gateway to its instances share: how names are looked up, and where it listens itself.

Decides whether a connection to an instance would lead back to this gateway, which would forward every request to itself
until its descriptors are used up. A connection on this host is known by its ends; one that comes back from elsewhere (a
published port, a service, a balancer) by the mark that a health probe carries.
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable
from typing import Any

from .name_sets import NameSets
from .resolver import LookUps, Resolver

# Inherited by the workers of one gateway, which listen on the same addresses.
_SEED = secrets.token_bytes(16)

Address = tuple[str, int]


class Network:
    """`listening`: the TCP addresses of this gateway's listeners."""

    def __init__(self, listening: Iterable[Address] = ()) -> None:
        look_ups = LookUps()
        self.resolver = Resolver(look_ups)
        self.names = NameSets(look_ups)
        self._listening = frozenset(listening)
        self.ports = frozenset(port for _, port in self._listening)
        # The request id of this gateway's health probes: nobody else's.
        self.mark = (
            hashlib.blake2b(repr(sorted(self._listening)).encode(), key=_SEED, digest_size=16).hexdigest().encode()
        )

    def leads_back(self, peer: Any, local: Any) -> bool:
        """Whether a TCP connection with these ends (as sockets say them) arrives at one of our own listeners."""
        if not isinstance(peer, tuple) or peer[1] not in self.ports:
            return False
        theirs, ours = _address(peer[0]), _address(local[0])
        here = theirs == ours or (theirs.is_loopback and ours.is_loopback)
        return any(port == peer[1] and _covers(_address(host), theirs, here=here) for host, port in self._listening)


def _covers(listener: Any, address: Any, *, here: bool) -> bool:
    """Whether who listens on `listener` is reached at `address`; `here`: it is an address of this host."""
    if listener.is_unspecified:
        return here and (listener.version == 6 or address.version == 4)  # "::" takes both, as listeners are bound
    return bool(listener == address)


def _address(text: str) -> Any:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
