"""TLS over a plain transport: what goes through is whole however it is cut, and each way to end is told apart."""

import asyncio
import contextlib
import ssl
from typing import Any

import pytest

from gomodel.host.tls_transport import TlsTransport

from ...harness.tls import client_context, server_context
from ...harness.verdicts import turned

BODY = bytes(range(256)) * 160  # two records and a half
RECORD = 16384 + 256
SIDES = pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])


class Below(asyncio.Transport):
    """The plain transport; what is written to it waits in `written`."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.written: list[bytes] = []
        self.end = ""

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def is_closing(self) -> bool:
        return bool(self.end)


class App(asyncio.Protocol):
    """Whoever uses the transport; `heard` is all it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.data: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def eof_received(self) -> None:
        self.heard.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(type(exc) if exc else "lost")

    def pause_writing(self) -> None:
        self.heard.append("paused")

    def resume_writing(self) -> None:
        self.heard.append("resumed")


class Pair:
    """A transport under test and, by hand, its peer."""

    def __init__(
        self, *, server_side: bool, context: ssl.SSLContext | None = None, limit_s: float | None = None
    ) -> None:
        ours, theirs = (server_context(), client_context()) if server_side else (client_context(), server_context())
        self.app, self.below = App(), Below()
        self.transport = TlsTransport(
            self.app,
            context or ours,
            server_side=server_side,
            server_hostname=None if server_side else "127.0.0.1",
            handshake_limit_s=limit_s,
        )
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.peer = theirs.wrap_bio(self.into, self.out, not server_side, "127.0.0.1" if server_side else None)
        self.transport.connection_made(self.below)

    def feed(self, data: bytes, piece: int = 1 << 20) -> None:
        for at in range(0, len(data), piece):
            rest = data[at : at + piece]
            while rest:
                buffer = self.transport.get_buffer(-1)
                taken = min(len(buffer), len(rest))
                buffer[:taken], rest = rest[:taken], rest[taken:]
                self.transport.buffer_updated(taken)

    def carry(self) -> None:
        """What the transport has written, to the peer."""
        self.into.write(b"".join(self.below.written))
        self.below.written.clear()

    def shake_hands(self, said: bytes = b"") -> "Pair":
        """To its end; `said` goes out with the peer's last flight where that is possible."""
        for _ in range(4):
            self.carry()
            with contextlib.suppress(ssl.SSLWantReadError):
                self.peer.do_handshake()
                if said:
                    self.peer.write(said)
                    said = b""
            self.feed(self.out.read())
        self.carry()
        return self

    def read(self) -> bytes:
        """All that has arrived at the peer; `notified` when it was told of the end."""
        self.carry()
        received = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.peer.read(1 << 20):
                received += data
            self.notified = True
        return received

    notified = False


@SIDES
@pytest.mark.parametrize("piece", [1, 5, 16384, 1 << 20])
async def test_what_arrives_is_whole_however_it_is_cut(server_side: bool, piece: int) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    sent = 0
    while sent < len(BODY):
        sent += pair.peer.write(BODY[sent:])
    pair.feed(pair.out.read(), piece)
    assert b"".join(pair.app.data) == BODY
    assert pair.app.heard == ["made"]


@SIDES
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 16384, 16385, len(BODY)])
async def test_what_is_written_is_whole_and_goes_on_record_by_record(server_side: bool, kind: Any, size: int) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    pair.transport.write(kind(BODY[:size]))
    assert all(len(each) <= RECORD for each in pair.below.written)
    assert pair.transport.get_write_buffer_size() == sum(map(len, pair.below.written))
    assert pair.read() == BODY[:size]


async def test_records_that_are_read_together_are_handed_over_together() -> None:
    pair = Pair(server_side=True).shake_hands()
    for each in (b"one", b"two", b"three"):
        pair.peer.write(each)
    pair.feed(pair.out.read())
    assert pair.app.data == [b"onetwothree"]


async def test_what_comes_with_the_end_of_the_handshake_is_handed_over() -> None:
    pair = Pair(server_side=True).shake_hands(said=b"GET /")
    assert (pair.app.heard, pair.app.data) == (["made"], [b"GET /"])
    await pair.transport.opened


@SIDES
async def test_closing_says_so_behind_what_was_written_and_waits_for_nobody(server_side: bool) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    pair.transport.write(BODY)
    pair.transport.close()
    pair.transport.close()
    pair.transport.write(b"late")
    assert (pair.below.end, pair.transport.is_closing()) == ("closed", True)
    assert (pair.read(), pair.notified) == (BODY, True)


@SIDES
async def test_closing_over_unread_records_says_so_as_well(server_side: bool) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    pair.peer.write(b"unread")
    pair.transport._incoming.write(pair.out.read())
    pair.transport.close()
    assert (pair.read(), pair.notified, pair.below.end) == (b"", True, "closed")


@SIDES
async def test_aborting_says_nothing(server_side: bool) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    pair.transport.abort()
    assert (pair.below.end, pair.below.written, pair.read(), pair.notified) == ("aborted", [], b"", False)


@SIDES
async def test_the_peers_close_notify_is_an_end_and_is_answered(server_side: bool) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    pair.peer.write(b"last")
    with contextlib.suppress(ssl.SSLWantReadError):
        pair.peer.unwrap()
    pair.feed(pair.out.read())
    assert (pair.app.data, pair.app.heard, pair.below.end) == ([b"last"], ["made", "eof"], "closed")
    pair.carry()
    pair.peer.unwrap()  # has theirs


@SIDES
async def test_an_end_without_one_is_an_end(server_side: bool) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    assert not pair.transport.eof_received()
    pair.transport.connection_lost(None)
    assert pair.app.heard == ["made", "eof", "lost"]
    assert pair.transport.is_closing()


@SIDES
async def test_a_damaged_record_loses_the_connection_behind_the_sound_ones(server_side: bool) -> None:
    pair = Pair(server_side=server_side).shake_hands()
    pair.peer.write(b"sound")
    pair.peer.write(b"damaged")
    sent = bytearray(pair.out.read())
    sent[-1] ^= 1
    pair.feed(bytes(sent))
    assert (pair.app.data, pair.below.end) == ([b"sound"], "aborted")
    pair.transport.connection_lost(None)
    assert pair.app.heard == ["made", ssl.SSLError]


async def test_a_certificate_that_is_not_trusted_is_said_to_the_peer_and_to_who_waits() -> None:
    pair = Pair(server_side=False, context=ssl.create_default_context(cadata=None))
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        pair.shake_hands()
    assert pair.below.end == "closed"
    pair.transport.connection_lost(None)
    with pytest.raises(ssl.SSLCertVerificationError):
        await pair.transport.opened
    assert pair.app.heard == []


@SIDES
async def test_a_peer_that_leaves_in_the_handshake_is_a_reset(server_side: bool) -> None:
    pair = Pair(server_side=server_side)
    pair.transport.eof_received()
    pair.transport.connection_lost(None)
    with pytest.raises(ConnectionResetError):
        await pair.transport.opened
    assert pair.app.heard == []


async def test_a_peer_that_never_shakes_hands_is_cut_off() -> None:
    pair = Pair(server_side=True, limit_s=0.001)
    await turned(lambda: pair.below.end == "aborted")


async def test_who_has_shaken_hands_is_under_no_limit() -> None:
    pair = Pair(server_side=True, limit_s=0.001).shake_hands()
    await asyncio.sleep(0.005)
    assert pair.below.end == ""


async def test_the_plain_transport_says_when_writing_pauses_and_who_the_peer_is() -> None:
    pair = Pair(server_side=True).shake_hands()
    pair.transport.pause_writing()
    pair.transport.resume_writing()
    assert pair.app.heard == ["made", "paused", "resumed"]
    assert pair.transport.get_extra_info("peername") == ("192.0.2.1", 1)
    assert pair.transport.get_extra_info("sslcontext") is server_context()
    assert pair.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert pair.transport.get_protocol() is pair.app
