"""The ledger of waste: what instances did for clients who left, and how soon they were told to stop.

Decides which requests count (contract section 11). Knows nothing of how a client's leaving is noticed.
"""

from collections import defaultdict

from .histogram import Histogram
from .record import Record
from .spending import worked


class Wasted:
    """What requests of one key at one instance took in vain."""

    __slots__ = ("events", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0  # that they ran, as in Spending
        self.events = 0


class Waste:
    """Sums since the start of the process."""

    def __init__(self) -> None:
        self.by_key: dict[tuple[str, str], Wasted] = defaultdict(Wasted)  # by instance and the key's name
        self.cancels: dict[str, Histogram] = defaultdict(Histogram)  # by instance

    def add(self, record: Record, seconds: float, *, metered: bool) -> None:
        """A client left its request, which took so long, its wait in line included; `metered` as in Route."""
        if record.cancel_s is not None:
            self.cancels[record.instance].observe(record.cancel_s)
        if metered and worked(record):
            wasted = self.by_key[record.instance, "" if record.caller is None else record.caller.name]
            wasted.seconds += seconds - record.queued_s
            wasted.events += record.events
