"""Connections of a summed request: what passes is looked at as it is framed, and who is set on them is set behind."""

from types import SimpleNamespace

import pytest

from gomodel.relay.taps import ClientTap, _framing

LENGTH = b"\r\ncontent-length: "


@pytest.mark.parametrize(
    ("fields", "sent", "payload"),
    [
        (LENGTH + b"3", b"abc", b"abc"),
        (LENGTH + b"3\r\nx: y", b"abc", b"abc"),
        (LENGTH + b"3", b"abcd", b"abc"),
        (LENGTH + b"0", b"abc", b"abc"),
        (b"\r\nx-content-length: 1", b"abc", b"abc"),
        (b"", b"abc", b"abc"),
        (b"\r\ntransfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"\r\ntransfer-encoding: chunked\r\nx: y", b"3;a=b\r\nabc\r\n", b"abc"),
    ],
)
def test_an_answer_is_read_as_its_head_says(fields, sent, payload):
    assert bytes(_framing(b"http/1.1 200 ok" + fields).feed(sent)) == payload


def test_who_feeds_a_summed_client_is_known_to_its_connection():
    connection, exchange = SimpleNamespace(feeder=None), object()
    tap = ClientTap(connection)
    tap.feeder = exchange
    assert connection.feeder is exchange  # which is held when the client does not read
    assert tap.feeder is exchange
    tap.feeder = None
    assert connection.feeder is None
