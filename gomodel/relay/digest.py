"""Digests: sums of a request's bodies (CRC-32) where they come in and where they go out, to find our own corruption.

Decides which requests are summed, and when in and out should be equal (contract section 11). A request that is not
summed pays for one look at whether it is.
"""

import itertools
import json
from collections.abc import Callable
from typing import cast

from ..downstream.request import Arrived, Connection, Request
from ..http1.framing import Body, Chunked, UntilClose
from ..upstream.channel import Channel
from .sums import Framed, Restored, Sum
from .taps import ChannelTap, ClientTap

REQUEST, RESPONSE = "request", "response"
# A summed request costs about twice its time, so of this many one is.
EVERY = 101


def sampling(every: int) -> Callable[[Request], None]:
    """What begins a request's digest, for one of `every` requests."""
    turns = itertools.cycle([*itertools.repeat(False, every - 1), True])

    def sample(request: Request) -> None:
        if next(turns) and not request.message.upgrade:  # a WebSocket has no body
            request.digest = Digest(request)

    return sample


class Digest:
    """The sums of one request."""

    __slots__ = ("_answers", "_cut", "_request", "_sent", "asked", "client")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.asked = Sum()  # the request body, as it came
        self._cut: tuple[int, bytes, bytes] = (0, b"", b"")
        self._sent: list[Sum] = []  # the same as each attempt sent it
        self._answers: list[Sum] = []  # the response body, as each attempt brought it
        self.client = ClientTap(request.protocol)
        request.protocol = cast(Connection, self.client)
        payload = request.payload
        if isinstance(payload, Arrived):
            self.asked.feed(payload.data)
        else:
            payload.observe(self.asked.feed)

    def cuts(self, at: int, taken: bytes, instead: bytes) -> None:
        """`taken`, at offset `at` of the request body, is replaced by `instead`."""
        self._cut = at, taken, instead

    def on(self, channel: Channel) -> Channel:
        """The channel for one attempt."""
        sent, answer = Restored(*self._cut), Sum()
        self._sent.append(sent)
        self._answers.append(answer)
        body: Body = Chunked() if self._request.fields.chunked else UntilClose()
        return cast(Channel, ChannelTap(channel, Framed(body, sent), sent, answer, self.client))

    def compare(self) -> list[str]:
        """The directions in which other bytes went out than came in, once the request is over; sets the record's."""
        request, client, found = self._request, self.client, []
        sent = [each for each in self._sent if each.complete]
        if any(each.crc != self.asked.crc for each in sent) or (sent and not self._cut_right()):
            found.append(REQUEST)
        answers = {each.crc for each in self._answers if each.complete}
        # One that has left, or whose answer was broken off, did not get all of it.
        whole = client.framed is not None and client.transport is not None and not request.record.ended_by
        if whole and answers and client.given.crc not in answers:
            found.append(RESPONSE)
        client.let_go()
        if self._sent:
            request.record.digest = f"{self.asked.crc:08x}/{client.given.crc:08x}"
        return found

    def _cut_right(self) -> bool:
        """Whether what was cut, with nothing in its place, is the name of the instance and the slash behind it."""
        _, taken, instead = self._cut
        if instead or not taken:
            return True
        named = f"{self._request.record.instance}/"
        return taken == named.encode() or (not self._request.fields.form and json.loads(b'"%b"' % taken) == named)
