"""When a worker process is started again, given up on, or taken for hung.

Decides all of that from what happened and when. Pure: knows no process, no signal and no clock; times are
time.monotonic in seconds, handed in.
"""

from dataclasses import dataclass

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the supervisor is."""

    # The wait before a worker that died is started again doubles from the first to the last of these.
    backoff_s: float = 0.1
    backoff_max_s: float = 5.0
    # A worker that lived this long did not die of its start.
    stable_s: float = 10.0
    # Times in a row that one may fail while the gateway is not up, or while all others fail too: 100 ms + 200 + ...
    attempts: int = 5
    # How often a worker says that its event loop turns, and how many of these times it may be silent before it is
    # killed, after 20 to 25 s. A loop that is merely busy is silent for well under one.
    beat_s: float = 5.0
    silent_beats: int = 4


@dataclass(slots=True, eq=False)
class Place:
    """One of the workers there shall be; who fills it changes."""

    index: int
    ready: bool = False
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = _NEVER
    missed: int = 0  # beats since the worker was last heard


class Restarts:
    """The places of one gateway."""

    def __init__(self, count: int, limits: Limits) -> None:
        self.places = [Place(index) for index in range(1, count + 1)]
        self.up = False  # all were ready at one time
        self._limits = limits
        self._beat_at = _NEVER

    @property
    def due(self) -> float:
        """When `to_start` or `hung` has something to say."""
        return min(self._beat_at, *(place.restart_at for place in self.places))

    def begin(self, now: float) -> None:
        """Every place is to be filled now."""
        self._beat_at = now + self._limits.beat_s
        for place in self.places:
            place.restart_at = now

    def stop(self) -> None:
        """Fill no place again. Those who hang are still told apart."""
        for place in self.places:
            place.restart_at = _NEVER

    def to_start(self, now: float) -> list[Place]:
        """The places to be filled now; each is taken for filled."""
        found = [place for place in self.places if now >= place.restart_at]
        for place in found:
            place.ready = False
            place.missed = 0
            place.started_at = now
            place.restart_at = _NEVER
        return found

    def ready(self, place: Place) -> bool:
        """The worker takes requests; whether that brings the gateway up."""
        place.ready = True
        if self.up or not all(each.ready for each in self.places):
            return False
        self.up = True
        return True

    def ended(self, place: Place, now: float) -> None:
        """The worker ended in good order, because it was told to: another follows at once."""
        place.ready = False
        place.failures = 0
        place.restart_at = now

    def failed(self, place: Place, now: float) -> float | None:
        """The worker died, or never came about: in how many seconds another follows, None to give up on all."""
        limits = self._limits
        place.ready = False
        place.failures = 1 if now - place.started_at >= limits.stable_s else place.failures + 1
        # One that is ready, or has not failed yet, may go on serving without this one.
        hope = self.up and any(each.ready or not each.failures for each in self.places)
        if place.failures >= limits.attempts and not hope:
            return None
        delay_s = min(limits.backoff_max_s, limits.backoff_s * 2.0 ** (place.failures - 1))
        place.restart_at = now + delay_s
        return delay_s

    def hung(self, now: float) -> list[Place]:
        """Count a beat when one is due; the places that have been silent for too many.

        Beats are counted, not seconds: after a pause of the whole machine everybody has missed one.
        """
        if now < self._beat_at:
            return []
        self._beat_at = now + self._limits.beat_s
        for place in self.places:
            place.missed += 1
        return [place for place in self.places if place.missed > self._limits.silent_beats]

    def alive(self, place: Place) -> bool:
        """Whether the worker has been heard of during the last two beats, the last of which may be on its way."""
        return place.missed < 2
