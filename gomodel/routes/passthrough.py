"""The rules of /p/{provider}/...: where a path goes on a vLLM server, and which routes administer that server.

The names are in `vllm_routes`. It does not know which providers exist, what their base URL is, or which switches are
set.
"""

from typing import NamedTuple

from .targets import decoded_segments
from .vllm_routes import (
    ADMIN_ROUTES,
    API_PREFIXES,
    BASE_FAMILIES,
    INFERENCE_FAMILIES,
    RESPONSE_OPERATIONS,
    ROOT_FAMILIES,
    STORED_FAMILIES,
)

# What Allow says; whatever else HTTP has passes as well, but for TRACE and CONNECT.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Placement(NamedTuple):
    """Where a passthrough path goes: `path` is raw, starts with "/" and counts from the base URL or from the root."""

    below_base: bool
    path: str
    aliased: bool  # a leading `v1/` stood before a family that is known without it
    replayable: bool
    spends: bool  # see Route


def place(rest: str) -> Placement:
    """Places what follows /p/{provider}/ (raw, no leading slash, no query) on the upstream; contract section 6.

    Families are compared byte for byte: `v1%2Fchat` is none. Whatever is no family goes to the root as it stands.
    """
    short = rest.removeprefix("v1/")
    family, _, operation = short.partition("/")
    below_base = family in BASE_FAMILIES
    known = below_base or family in ROOT_FAMILIES
    path = "/" + (short if known else rest)
    replayable = family in INFERENCE_FAMILIES and not administers(path)
    stored = family in STORED_FAMILIES or (family == "responses" and operation and operation not in RESPONSE_OPERATIONS)
    return Placement(below_base, path, known and short != rest, replayable, not stored)


def administers(path: str) -> bool:
    """Whether a raw upstream path, with its /v1 where it goes below the base URL, is an administrative route of vLLM.

    vLLM routes on the decoded path and, started with --root-path, also below that prefix, which nobody tells gomodel.
    So an administrative name closes the path wherever it stands, except inside vLLM's own API (`/v1/files/sleep` is
    a file). Empty segments and a trailing slash count for nothing: a server in between may drop them.
    """
    segments = [segment for segment in decoded_segments(path) if segment]
    depth = 0
    while depth < len(segments) and segments[depth] in API_PREFIXES:
        depth += 1
    suspects = segments[depth : depth + 1] if depth else segments
    return not ADMIN_ROUTES.isdisjoint(suspects)
