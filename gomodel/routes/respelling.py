"""What a caller may have meant by an address that is no route: other spellings of its path, the likeliest first.

Base URLs are given with and without /v1, doubled slashes and capitals, or as another gateway has them. Pure; does not
know which routes there are.
"""

from collections.abc import Iterator

# A path of more is no slip.
_SEGMENTS = 12


def respellings(path: str) -> Iterator[str]:
    """Paths without empty segments, in lower case, from a later segment on, and each with /v1 in front."""
    for spelt, _ in _spellings(path):
        yield spelt
        yield f"/v1{spelt}"


def ends(path: str) -> Iterator[str]:
    """The same without the /v1 in front, and no further in than behind one segment, such as a doubled /v1."""
    for spelt, start in _spellings(path):
        if start <= 1:
            yield spelt


def _spellings(path: str) -> Iterator[tuple[str, int]]:
    segments = [segment for segment in path.split("/") if segment]
    if not segments or len(segments) > _SEGMENTS:
        return
    first = [segments[0].lower(), *segments[1:]]
    for spelt in (segments, first, [segment.lower() for segment in segments]):
        for start in range(len(spelt)):
            yield "/" + "/".join(spelt[start:]), start
