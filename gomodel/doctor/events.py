"""Server-sent events as they came: how they are cut, what each holds, when each was whole.

Decides which events a stream of vLLM's has by their content: a role, text, an end, usage, [DONE]. Pure.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r")
DONE = "[DONE]"


class Event(NamedTuple):
    """`at`: when its last byte came. `lines`: without line ends. `data`: of its data lines."""

    at: float
    lines: tuple[str, ...]
    data: str
    delimiter: bytes

    @property
    def comment(self) -> bool:
        """Whether it says nothing, as what keeps a connection alive."""
        return all(line.startswith(":") for line in self.lines)

    def json(self) -> Any:
        """Its data as JSON; None where it is none, as of [DONE]."""
        try:
            return json.loads(self.data)
        except ValueError:
            return None


class Stream(NamedTuple):
    """`rest`: what follows the last whole event."""

    events: Sequence[Event]
    rest: bytes

    @property
    def spoken(self) -> list[Event]:
        """The events that are no comments."""
        return [event for event in self.events if not event.comment]

    @property
    def done(self) -> bool:
        """Whether it ends with [DONE]."""
        return bool(self.spoken) and self.spoken[-1].data == DONE

    @property
    def chunks(self) -> list[Any]:
        """The JSON of each event that has one."""
        return [value for event in self.spoken if isinstance(value := event.json(), dict)]

    @property
    def usage(self) -> Any:
        """What the usage event says, None without one."""
        return next((chunk["usage"] for chunk in reversed(self.chunks) if chunk.get("usage")), None)

    @property
    def finish(self) -> Any:
        """The finish reason, None without one."""
        for chunk in reversed(self.chunks):
            for choice in chunk.get("choices") or ():
                if choice.get("finish_reason"):
                    return choice["finish_reason"]
        return None

    @property
    def text(self) -> str:
        """All that was said."""
        deltas = [choice.get("delta") or {} for chunk in self.chunks for choice in chunk.get("choices") or ()]
        return "".join(str(delta.get("content") or "") for delta in deltas)


def cut(arrivals: Iterable[tuple[float, bytes]]) -> Stream:
    """The events of a body, whose pieces are given with the time each came."""
    events = []
    held = b""
    for at, payload in arrivals:
        held += payload
        start = 0
        while match := _BLANK.search(held, start):
            lines = held[start : match.start()].decode("utf-8", "replace").splitlines()
            data = "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))
            events.append(Event(at, tuple(lines), data, match[0]))
            start = match.end()
        held = held[start:]
    return Stream(events, held)


class Cadence(NamedTuple):
    """How events came. `span_s`: from the first to the last. `silence_s`: how long the silence is, on the average over
    all moments, into which a moment between the two falls; of events that come one by one it is their interval, of
    those that come by tens ten times that, and a machine that stands still once adds little to it.
    """

    events: int
    span_s: float
    silence_s: float

    @property
    def interval_s(self) -> float:
        """Between one event and the next, on the average over the events."""
        return self.span_s / max(1, self.events - 1)


def cadence(events: Sequence[Event]) -> Cadence:
    """How these events came."""
    gaps = [later.at - earlier.at for earlier, later in pairwise(events)]
    span_s = sum(gaps)
    return Cadence(len(events), span_s, sum(gap * gap for gap in gaps) / span_s if span_s > 0 else 0.0)
