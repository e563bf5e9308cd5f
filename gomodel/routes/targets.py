"""The request target as it came off the wire: its path, its query, and whether it is safe to hand on.

Decides which forms of RFC 9112 3.2 are accepted and refuses every spelling that two servers could read as different
paths. Nothing here rewrites a byte: what passes is forwarded as it stands. It does not know which routes exist, nor
where a path leads.
"""

import re
from urllib.parse import quote, unquote

from ..errors import BadTarget

# The authority of an absolute-form target names no one: gomodel serves its own routes whatever it says. User
# information in it is a phishing device that RFC 9110 4.2.4 tells recipients to treat as an error.
_ABSOLUTE_FORM = re.compile(r"https?://[^/?#@\\]+", re.IGNORECASE)

# Outside visible ASCII there are controls, the space, and raw bytes of 0x80 and up, decoded or as surrogates. A
# fragment is never sent by a client (RFC 9112 3.2): servers cut it, keep it or fail.
_NEVER = re.compile(r"[^!-~]|#")

# Only in the path: a backslash is a slash to some servers, an encoded control ends the string or the line in others,
# and a percent sign without two hex digits is repaired in as many ways as there are decoders. A query is data.
_NEVER_IN_PATH = re.compile(r"\\|%5[Cc]|%[01][0-9A-Fa-f]|%7[Ff]|%(?![0-9A-Fa-f]{2})")

# All of visible ASCII: what `quote` is to leave alone.
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


def split_target(raw: str) -> tuple[str, str]:
    """Path and query of a raw request target; the query keeps its "?" and is "" when there is none.

    Origin-form and absolute-form are accepted, the latter for its path and query only (RFC 9112 3.2.1, 3.2.2: Host
    and authority choose nothing here). Raises BadTarget for the other forms, `*` and authority-form included.
    """
    if not raw.startswith("/"):
        authority = _ABSOLUTE_FORM.match(raw)
        if authority is None:
            raise BadTarget("The request target must be a path that starts with '/'.")
        raw = raw[authority.end() :]
    path, mark, query = raw.partition("?")
    path = path or "/"
    if not path.startswith("/"):
        raise BadTarget("The request target is not a valid http URL.")
    return path, mark + query


def check_target(path: str, query: str) -> None:
    """Passes only a target that every server reads alike; contract section 6, RFC 3986 3.3 and 6.2.2.

    `%2F` is left alone: it is not a slash until somebody decodes it, and nobody here does so to forward it.
    Raises BadTarget for controls and raw bytes of 0x80 and up, `#`, and in the path alone for backslashes, encoded
    controls, broken percent escapes and dot segments, encoded ones included.
    """
    if _NEVER.search(path) or _NEVER.search(query):
        raise BadTarget("The request target may only hold visible ASCII characters and no '#'.")
    if _NEVER_IN_PATH.search(path):
        raise BadTarget("The path has a backslash, an encoded control character or an invalid percent escape.")
    if ("." in path or "%" in path) and not {".", ".."}.isdisjoint(decoded_segments(path)):
        raise BadTarget("The path has a dot segment ('.' or '..', possibly percent-encoded).")


def shown_path(raw: str, limit: int) -> str:
    """The path of a raw request target, good or bad, for people: visible ASCII, at most `limit` characters and "...".

    Without what may hold a secret: query, fragment and user information. "" for a target that has no path.
    """
    path = re.split("[?#]", raw, maxsplit=1)[0]
    if not path.startswith("/"):
        authority = _ANY_SCHEME.match(path)
        if authority is None:
            return ""
        path = path[authority.end() :] or "/"
    shown = quote(path[: limit + 1], _VISIBLE, errors="surrogateescape")
    return shown if len(shown) <= limit else shown[:limit] + "..."


def decoded_segments(path: str) -> list[str]:
    """The segments of a raw path as the most generous server would read them.

    Decoded once, with `%2F` taken for a slash (uvicorn matches routes on that form) and `;parameters` dropped (servlet
    containers do so, which makes `..;` a dot segment there). For comparing only, never for forwarding.
    """
    return [segment.partition(";")[0] for segment in unquote(path).split("/")]
