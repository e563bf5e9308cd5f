"""What a caller may have meant by a model that does not exist.

Decides which of the models that do exist look like it. Pure, and bounded in time: difflib is slow, and the loop waits
for it. Knows nothing of instances.
"""

import heapq
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice

# Ids are shorter; what is longer was no slip of the pen.
_COMPARED_CHARS = 64
# Of so many models the names are looked at, of these the letters, of these their order: a millisecond or two for each.
_LOOKED_AT, _COMPARED, _MEASURED = 10_000, 100, 10
_CUTOFF = 0.5
_NAMED = 3
# As good as a small slip: who writes `llama` means one of those whose name holds it.
_CONTAINED, _CONTAINED_CHARS = 0.75, 3


def near(wanted: str, models: Iterable[str]) -> list[str]:
    """The models most like `wanted`, best first; in any case, with or without the organisation, or a part of the name.

    Of more than 100 only those are compared whose name holds it, or whose length is closest; of those that share most
    letters with it, how alike they are.
    """
    whole = wanted[:_COMPARED_CHARS].lower()
    tail = whole.rpartition("/")[2]
    likely = list(islice(models, _LOOKED_AT))
    if len(likely) > _COMPARED:
        likely = _narrowed(tail, likely)
    by_whole, by_tail = SequenceMatcher(b=whole), SequenceMatcher(b=tail)
    names = [model[:_COMPARED_CHARS].lower() for model in likely]
    held = [_CONTAINED * (len(tail) >= _CONTAINED_CHARS and tail in name) for name in names]
    letters = [max(_shared(by_whole, name), _shared(by_tail, name.rpartition("/")[2])) for name in names]
    scores = [0.0] * len(likely)
    for at in heapq.nlargest(_MEASURED, range(len(likely)), key=lambda at: (held[at] or letters[at], letters[at])):
        if held[at] or letters[at] >= _CUTOFF:
            ratio = max(_ratio(by_whole, names[at]), _ratio(by_tail, names[at].rpartition("/")[2]))
            scores[at] = max(held[at], ratio)
    best = heapq.nlargest(_NAMED, range(len(likely)), key=scores.__getitem__)
    return [likely[at] for at in best if scores[at] >= _CUTOFF]


def likeness(one: str, other: str) -> float:
    """From 0 to 1, in any case, by how both begin."""
    return _ratio(SequenceMatcher(b=one[:_COMPARED_CHARS].lower()), other[:_COMPARED_CHARS].lower())


def _narrowed(tail: str, models: list[str]) -> list[str]:
    """Those whose name holds `tail`, and those of about its length."""
    holding = [model for model in models if tail in model[: 2 * _COMPARED_CHARS].lower()] if tail else []
    length = len(tail) + 1
    closest = heapq.nsmallest(_COMPARED, models, key=lambda model: abs(len(model) - model.rfind("/") - length))
    return list(dict.fromkeys(holding[:_COMPARED] + closest))[:_COMPARED]


def _shared(matcher: SequenceMatcher[str], name: str) -> float:
    """How alike they would be if only the order of the letters differed."""
    matcher.set_seq1(name)
    return matcher.quick_ratio()


def _ratio(matcher: SequenceMatcher[str], name: str) -> float:
    matcher.set_seq1(name)
    return matcher.ratio()
