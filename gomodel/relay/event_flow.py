"""The way of an event from an instance to its client while events come one by one, each a chunk of its own.

Decides nothing: it times an event, counts it, and writes it as it came. What it touches is kept together in few places,
since with hundreds of streams open every event finds the processor's caches full of others'. What comes in another
shape, and what is made of the last events, is `relay`'s.
"""

from bisect import bisect_left
from time import monotonic

from ..downstream.request import Connection
from ..http1.framing import SIZE_LINES, whole_chunk
from ..telemetry.histogram import SECONDS, Histogram
from ..telemetry.record import Record

_CR, _LF = b"\r\n"


class EventFlow:
    """A `upstream.channel.Flow` to one client."""

    __slots__ = ("_client", "_gaps", "_record", "before", "last")

    def __init__(self, record: Record, gaps: Histogram, client: Connection) -> None:
        self._record = record
        self._gaps = gaps
        self._client = client
        self.before, self.last = b"", b""  # the last two chunks, as they went out

    def takes(self, data: bytes) -> bool:
        """See Flow. Nothing is copied, and nothing of ours is called where a chunk of that length came before."""
        size = len(data)
        line = SIZE_LINES.get(size)
        if line is not None and data[-1] == _LF and data[-2] == _CR and data.startswith(line):  # as `whole_chunk`
            start = len(line)
        elif not (start := whole_chunk(data)):
            return False
        record, gaps = self._record, self._gaps
        now = monotonic()
        gap = now - record.since
        gaps.counts[bisect_left(SECONDS, gap)] += 1
        gaps.sum += gap
        record.since = now
        record.bytes_out += size - start - 2
        record.events += 1
        self.before = self.last
        self.last = data
        transport = self._client.transport
        if transport is not None:
            transport.write(data)
        return True

    def taken(self) -> tuple[bytes, bytes]:
        """The payloads of the last two chunks, which it forgets; b"" for one that there was not."""
        before, last = self.before, self.last
        self.before = self.last = b""
        return _payload(before), _payload(last)


def _payload(chunk: bytes) -> bytes:
    """What is in a chunk that stands alone; b"" for none."""
    return chunk[chunk.find(b"\n") + 1 : -2]
