"""What the kernel says of a connection, for both kinds of socket."""

import asyncio
import socket

import pytest

from gomodel.host.kernel import peer_closed, reset_on_close, unsent

from ...harness.scripted import let_peers_run

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])


@pytest.fixture
async def pair(kind, no_leaks):
    """A transport, from which nobody reads on this side, and the socket at the other end."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    ours.setblocking(False)
    theirs.settimeout(5)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    transport.pause_reading()
    yield transport, theirs
    theirs.close()
    transport.abort()
    await let_peers_run()


@KINDS
@pytest.mark.parametrize("how", ["close", "half close"])
async def test_a_peer_that_closed_shows_although_nothing_was_read(pair, how):
    transport, theirs = pair
    theirs.sendall(b"unread")
    assert not peer_closed(transport)
    theirs.close() if how == "close" else theirs.shutdown(socket.SHUT_WR)
    assert peer_closed(transport)


@KINDS
async def test_a_closed_transport_has_no_peer(pair):
    transport, _ = pair
    transport.abort()
    await let_peers_run()
    assert peer_closed(transport)


@KINDS
async def test_what_the_peer_has_not_read_is_counted_once_the_transport_holds_some(pair):
    transport, theirs = pair
    assert unsent(None) == unsent(transport) == 0
    transport.write(bytes(16 << 20))
    await let_peers_run()
    held = transport.get_write_buffer_size()
    before = unsent(transport)
    assert held < before
    theirs.recv(1 << 16)
    await let_peers_run()
    assert unsent(transport) <= before


@KINDS
async def test_a_close_is_a_reset_where_there_is_such_a_thing(pair, kind):
    transport, theirs = pair
    reset_on_close(transport)
    transport.close()
    await let_peers_run()
    if kind == "unix":
        assert theirs.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            theirs.recv(1)
