"""The data-parallel ranks of one server: engines behind one port, each with a cache of its own.

Decides which rank has least to do where nothing names a conversation. Counts the requests of this process alone. Pure.
"""

from random import choice


class Ranks:
    """How many requests each rank has in flight."""

    def __init__(self, number: int) -> None:
        self.counts = [0] * number

    def idlest(self) -> int:
        """The rank with fewest requests, of equals any."""
        least = min(self.counts)
        return choice([rank for rank, count in enumerate(self.counts) if count == least])
