"""Names under which models are asked for besides their own: the operator's MODEL_ALIASES. Pure.

Decides what an alias stands for: a name that is written out, or one that a pattern with one `*` matches, the first of
those that were written. An alias is looked up once: what it stands for is no alias again. Knows nothing of instances.
"""

from collections.abc import Iterable


class Aliases:
    """Alias -> selector. `names` are those that are written out."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.names: dict[str, str] = {}
        self._patterns: list[tuple[str, str, str]] = []
        for name, target in pairs:
            before, star, after = name.partition("*")
            if star:
                self._patterns.append((before, after, target))
            else:
                self.names[name] = target

    def matching(self, name: str) -> str | None:
        """What the first pattern that matches stands for."""
        for before, after, target in self._patterns:
            if len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after):
                return target
        return None
