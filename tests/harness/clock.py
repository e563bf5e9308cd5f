"""A clock that stands still until a test moves it: what the gateway takes for time.monotonic, in all of its modules.

The event loop's own timers go on by the real one.
"""

import sys
from time import monotonic

import pytest


class Clock:
    """Called like time.monotonic."""

    def __init__(self) -> None:
        self.now = monotonic()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """So much time goes by at once."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Not to be moved over the limits of a gateway."""
    import gomodel.process.gateway  # noqa: F401 - all modules that a gateway has

    standing = Clock()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "gomodel" and vars(module).get("monotonic") is monotonic:
            monkeypatch.setattr(module, "monotonic", standing)
    return standing
