"""What a caller may have meant by a model that does not exist.

Decides which of the models that do exist look like it. Pure, and bounded in time: difflib is slow, and the loop waits
for it. Knows nothing of instances.
"""

import heapq
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice

# Ids are shorter; what is longer was no slip of the pen.
_COMPARED_CHARS = 128
_COMPARED = 100
# A look at so many takes a few milliseconds; of what is behind them nobody is reminded.
_LOOKED_AT = 10_000
_CUTOFF = 0.5
# As good as a small slip: who writes `llama` means one of those whose name holds it.
_CONTAINED, _CONTAINED_CHARS = 0.75, 3


def near(wanted: str, models: Iterable[str], count: int = 3) -> list[str]:
    """The models most like `wanted`, best first; in any case, with or without the organisation, or a part of the name.

    Of more than 100 only those are compared whose name holds it, or whose length is closest.
    """
    whole = wanted[:_COMPARED_CHARS].lower()
    tail = whole.rpartition("/")[2]
    likely = list(islice(models, _LOOKED_AT))
    if len(likely) > _COMPARED:
        holding = [model for model in likely if tail in model.lower()][:_COMPARED] if tail else []
        length = len(tail) + 1
        likely = list(
            dict.fromkeys(
                holding
                + heapq.nsmallest(
                    _COMPARED - len(holding), likely, key=lambda model: abs(len(model) - model.rfind("/") - length)
                )
            )
        )
    by_whole, by_tail = SequenceMatcher(b=whole), SequenceMatcher(b=tail)
    scores = []
    for model in likely:
        name = model[:_COMPARED_CHARS].lower()
        score = max(_ratio(by_whole, name), _ratio(by_tail, name.rpartition("/")[2]))
        if len(tail) >= _CONTAINED_CHARS and tail in name:
            score = max(score, _CONTAINED)
        scores.append(score)
    best = heapq.nlargest(count, range(len(likely)), key=scores.__getitem__)
    return [likely[at] for at in best if scores[at] >= _CUTOFF]


def likeness(one: str, other: str) -> float:
    """From 0 to 1, in any case."""
    return SequenceMatcher(a=one.lower(), b=other.lower()).ratio()


def _ratio(matcher: SequenceMatcher[str], name: str) -> float:
    matcher.set_seq1(name)
    if matcher.real_quick_ratio() < _CUTOFF or matcher.quick_ratio() < _CUTOFF:
        return 0.0
    return matcher.ratio()
