"""What a lost connection means: which failure it is, whether its end was said, and what could still be read."""

import errno
import itertools
import socket
import ssl
from typing import Any

import pytest

from gomodel.errors import StaleConnection
from gomodel.upstream.connection_loss import closed_on_purpose, failure, last_words

# None of these says that the host is gone.
CLOSED = [
    None,
    ConnectionResetError(errno.ECONNRESET, "reset"),
    BrokenPipeError(),
    ssl.SSLError(1, "bad record"),
    EOFError(),
]
GONE = [OSError(errno.EHOSTUNREACH, "no route"), TimeoutError(errno.ETIMEDOUT, "timed out")]
STANDS = list(itertools.product([False, True], repeat=4))


def known(exc: BaseException | None, tunnel: bool, in_body: bool, in_head: bool, reused: bool) -> Any:
    return failure("vllm", exc, tunnel=tunnel, in_body=in_body, in_head=in_head, reused=reused)


@pytest.mark.parametrize("exc", GONE, ids=repr)
@pytest.mark.parametrize("stand", STANDS)
def test_a_request_to_a_host_that_is_gone_may_have_begun(exc, stand):
    error = known(exc, *stand)
    assert (type(error).__name__, error.code) == ("UpstreamError", "connection_terminated")
    assert error.message == "Instance 'vllm' cannot be reached any more."


@pytest.mark.parametrize("exc", CLOSED, ids=repr)
@pytest.mark.parametrize(("tunnel", "in_body", "in_head", "reused"), STANDS)
def test_how_far_the_answer_had_come_says_what_a_closed_connection_means(exc, tunnel, in_body, in_head, reused):
    error = known(exc, tunnel, in_body, in_head, reused)
    said = error.message.removeprefix("Instance 'vllm' ")
    if tunnel:
        assert said == "reset the connection."
    elif in_body:
        assert said == "closed the connection before the response was complete."
    elif in_head:
        assert said == "closed the connection inside the response head."
    else:
        assert said == "closed the connection before it answered."
    first = not (tunnel or in_body or in_head)
    assert error.code == (
        "http_response_incomplete" if in_head and not (tunnel or in_body) else "connection_terminated"
    )
    assert isinstance(error, StaleConnection) == (reused and first)


class Transport:
    """A transport as far as what it tells of itself."""

    def __init__(self, **info: Any) -> None:
        self._info = info

    def get_extra_info(self, name: str) -> Any:
        return self._info.get(name)


class Tls:
    """The TLS of a connection that ended, which has these bytes left, or fails so."""

    def __init__(self, left: bytes | ssl.SSLError) -> None:
        self._left = left

    def read(self, count: int) -> bytes:
        if isinstance(self._left, ssl.SSLError):
            raise self._left
        return self._left[:count]


@pytest.mark.parametrize(
    ("transport", "said"),
    [
        (None, True),
        (Transport(), True),
        (Transport(ssl_object=Tls(b"")), True),
        (Transport(ssl_object=Tls(ssl.SSLZeroReturnError())), True),
        (Transport(ssl_object=Tls(b"more")), False),
        (Transport(ssl_object=Tls(ssl.SSLWantReadError())), False),
        (Transport(ssl_object=Tls(ssl.SSLEOFError())), False),
    ],
    ids=["lost", "plain", "end of file", "close_notify", "more to read", "nothing said", "cut"],
)
def test_over_tls_an_end_has_to_be_said(transport, said):
    assert closed_on_purpose(transport) is said


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("closed", [False, True])
def test_what_is_left_after_a_reset_is_read_to_its_end(pair, size, closed):
    ours, theirs = pair
    theirs.sendall(b"x" * size)
    if closed:
        theirs.close()
    words = list(last_words(Transport(socket=ours)))
    assert b"".join(words) == b"x" * size
    assert all(0 < len(each) <= 1 << 16 for each in words)


def test_nothing_is_read_without_a_connection_nor_of_bytes_whose_keys_are_gone(pair):
    ours, theirs = pair
    theirs.sendall(b"x")
    assert list(last_words(None)) == []
    assert list(last_words(Transport(socket=ours, sslcontext=ssl.create_default_context()))) == []
    assert ours.recv(1) == b"x"


def test_no_more_is_read_than_is_asked_for(pair):
    ours, theirs = pair
    theirs.sendall(b"x" * ((1 << 16) + 1))
    next(last_words(Transport(socket=ours)))
    assert ours.recv(2) == b"x"
