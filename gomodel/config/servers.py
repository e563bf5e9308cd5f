"""Where the servers of an instance are: a URL, a list of them, ranges of ports, names whose every address is a server.

Decides which spellings are accepted and which lists make no sense. Resolves no name, opens nothing. A message completes
the sentence "<NAME>: ..."; URLs are never quoted in one, because they may hold a secret.
"""

import re

from .addresses import is_address, is_socket_path, normal_authority, normal_path, same_authority
from .settings import Server

# So many a process can count the requests of (`upstream.host_counts`), and so many pools it can keep.
MOST = 1024

_EXAMPLE = "use http://host:8000/v1, https://host/v1 or unix:///run/vllm.sock:/v1"
_EVERY_ADDRESS = "+dns"
_SCHEMES = frozenset({"http", "https", f"http{_EVERY_ADDRESS}", f"https{_EVERY_ADDRESS}", "unix"})
_VISIBLE = re.compile(r"[!-~]+")
_RANGE = re.compile(r"(?P<host>.*):(?P<first>[0-9]+)-(?P<last>[0-9]+)")


def servers(text: str) -> tuple[Server, ...]:
    """The servers of a base URL, or of a comma list of them, in its order; contract section 1.

    `http://host:port/v1`, `https://...`, `unix:///path.sock:/v1`; `http://host:8000-8007/v1` is a server on each of
    these ports, `http+dns://name:port/v1` one at each address of the name. Scheme and host become lower case, an empty
    port and one trailing slash go, the path stays as written.

    Raises ValueError, never quoting a URL, for user information, query, fragment, dot segments and all that is no URL;
    for a server that is named twice, for paths that differ, and for more than MOST of them.
    """
    entries = text.split(",")
    found: list[Server] = []
    entry_of: dict[str, int] = {}
    paths: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        try:
            some, path = _servers(entry.strip() if len(entries) > 1 else entry)
        except ValueError as error:
            if len(entries) == 1:
                raise
            raise ValueError(f"entry {number} of the list {error}") from None
        for server in some:
            same = entry_of.setdefault(same_authority(server.address), number)
            if same != number:
                raise ValueError(f"entries {same} and {number} of the list name the same server; leave one out")
        paths.setdefault(path, number)
        found += some
    if len(paths) > 1:
        first, other, *_ = paths.values()
        raise ValueError(
            f"entries {first} and {other} of the list have different paths; the servers of one instance are the same "
            "but for their addresses: describe others as an instance of their own"
        )
    if len(found) > MOST:
        raise ValueError(f"names {len(found)} servers; an instance may have {MOST}")
    return tuple(found)


def _servers(text: str) -> tuple[list[Server], str]:
    """The servers of one entry, and their path."""
    if not text:
        raise ValueError(f"is empty; {_EXAMPLE}")
    if not _VISIBLE.fullmatch(text):
        raise ValueError(f"holds whitespace, a control character or a character outside ASCII; {_EXAMPLE}")
    if "?" in text or "#" in text:
        raise ValueError(f"has a query or fragment; {_EXAMPLE}")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise ValueError(f"is not an http, https or unix URL; {_EXAMPLE}")
    try:
        if scheme == "unix":
            return _on_socket(rest)
        authority, slash, below = rest.partition("/")
        path = normal_path(slash + below)
        every_address = scheme.endswith(_EVERY_ADDRESS)
        scheme = scheme.removesuffix(_EVERY_ADDRESS)
        authorities = _authorities(authority)
        host = authorities[0].rpartition(":")[0] or authorities[0]
        if every_address and (host.startswith("[") or is_address(host)):
            raise ValueError("has an address where a name belongs: an address cannot be looked up")
    except ValueError as error:
        raise ValueError(f"{error}; {_EXAMPLE}") from None
    return [Server(f"{scheme}://{each}{path}", every_address=every_address) for each in authorities], path


def _on_socket(text: str) -> tuple[list[Server], str]:
    path, colon, below = text.rpartition(":")
    if not colon or not below.startswith("/"):
        path, below = text.removesuffix(":"), ""
    if not is_socket_path(path):
        raise ValueError("has no absolute socket path of at most 107 bytes")
    below = normal_path(below)
    return [Server(f"http://localhost{below}", path)], below


def _authorities(text: str) -> list[str]:
    """Host and port as they are written, or with each port of a range."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return [normal_authority(text)]
    host, first, last = match["host"], match["first"], match["last"]
    for port in (first, last):
        normal_authority(f"{host}:{port}")
    ports = range(int(first), int(last) + 1)
    if not ports:
        raise ValueError("has a range of ports that runs backwards")
    if len(ports) > MOST:
        raise ValueError(f"has a range of {len(ports)} ports, and {MOST} are the most")
    return [normal_authority(f"{host}:{port}") for port in ports]
