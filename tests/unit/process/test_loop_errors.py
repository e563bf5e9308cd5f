"""What the event loop reports of connections is told apart from what is a fault of the gateway."""

import asyncio
import errno
import logging
import ssl

import pytest

from gomodel.process.serving import _LoopErrors

LOST = [
    OSError(errno.ETIMEDOUT, "Connection timed out"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ConnectionAbortedError("SSL handshake is taking longer than 60.0 seconds: aborting the connection"),
    ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request (_ssl.c:1006)"),
    TimeoutError("SSL shutdown timed out"),
]


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.DEBUG, logger="gomodel")
    errors, loop = _LoopErrors(), asyncio.new_event_loop()

    def report(**context):
        caplog.clear()
        errors(loop, {"message": "Fatal error on transport", **context})
        return [(each.levelname, each.exc_info is not None) for each in caplog.records]

    yield report
    loop.close()


@pytest.mark.parametrize("error", LOST)
@pytest.mark.parametrize("whose", ["transport", "protocol"])
def test_a_connection_that_was_lost_is_for_debugging_and_has_no_traceback(said, error, whose):
    assert said(exception=error, **{whose: object()}) == [("DEBUG", False)]


@pytest.mark.parametrize(
    ("error", "context"),
    [(ValueError("bug"), {"transport": object()}), (OSError(errno.ENOENT, "no such file"), {"future": object()})],
)
def test_a_bug_is_an_error_with_its_traceback(said, error, context):
    assert said(exception=error, **context) == [("ERROR", True)]


def test_descriptors_that_ran_out_are_an_error_once_a_second(said):
    out = OSError(errno.EMFILE, "Too many open files")
    assert said(exception=out, socket=object()) == [("ERROR", False)]
    assert said(exception=out, socket=object()) == []
