"""The internals of aiohttp that `downstream` and `upstream` lean on; its failures are what a newer aiohttp moved."""

import asyncio
import inspect
from functools import partial

import aiohttp
import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from yarl import URL

from gomodel.downstream import Downstream, Server
from gomodel.upstream import Channel

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Protocol(BaseProtocol):
    """As little as a parser needs."""

    def pause_reading(self) -> None:
        raise AssertionError("the parser paused although its limit was not reached")

    def resume_reading(self, resume_parser: bool = True) -> None: ...


def response_parser(**options):
    loop = asyncio.get_running_loop()
    settings = {"read_until_eof": True, "auto_decompress": False, **options}
    return HttpResponseParser(Protocol(loop), loop, 1 << 29, **settings)


def test_the_tested_minor_version_is_installed():
    assert aiohttp.__version__.startswith("3.14.")


@pytest.mark.parametrize(
    "name",
    [
        "_messages",
        "_waiter",
        "_parser",
        "_upgraded",
        "_message_tail",
        "_msg_queue_resume_size",
        "_keepalive_handle",
        "_keepalive_timeout",
        "_next_keepalive_close_time",
        "_force_close",
        "_payload_parser",
        "_buffer_paused",
        "_reading_paused",
        "_paused",
        "_drain_waiter",
        "_loop",
        "_task_handler",
    ],
)
async def test_the_server_protocol_has(name):
    protocol = Server(None, write_idle_s=1)()
    assert hasattr(protocol, name)


@pytest.mark.parametrize(
    "name",
    [
        "_process_keepalive",
        "_resume_reading_if_drained",
        "_drain_helper",
        "_pause_transport_reading",
        "_resume_transport_reading",
        "set_parser",
        "force_close",
    ],
)
def test_the_server_protocol_can(name):
    assert callable(getattr(RequestHandler, name))


@pytest.mark.parametrize("name", ["_buffer", "_size", "_http_chunk_splits", "_eof"])
async def test_the_reader_has(name):
    assert hasattr(StreamReader(Protocol(asyncio.get_running_loop()), 1), name)


def test_the_servers_task_is_start():
    assert inspect.iscoroutinefunction(RequestHandler.start)
    assert "self.start()" in inspect.getsource(RequestHandler.connection_made)


def test_a_lost_client_cancels_the_task():
    source = inspect.getsource(RequestHandler.connection_lost)
    assert "handler_cancellation" in source
    assert "_task_handler.cancel()" in source


def test_the_server_takes_its_options_for_the_protocol():
    parameters = inspect.signature(RequestHandler.__init__).parameters
    assert {"keepalive_timeout", "auto_decompress", "read_bufsize", "access_log", "logger"} <= set(parameters)
    assert "handler_cancellation" in inspect.signature(web.Server.__init__).parameters


async def test_a_request_that_does_not_parse_is_queued_as_an_error():
    protocol = Server(None, write_idle_s=1)()
    protocol.data_received(b"NOT HTTP\r\n\r\n")
    message, _ = protocol._messages[0]
    assert isinstance(message, _ErrInfo)
    assert isinstance(protocol, Downstream)


async def test_a_request_parser_gives_raw_headers_and_the_raw_target():
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(Protocol(loop), loop, 1 << 16, max_line_size=8190, max_field_size=8190)
    messages, upgraded, tail = parser.feed_data(b"GET /a%2Fb?q=%20 HTTP/1.1\r\nHost: x\r\nX-A: 1 \r\n\r\n")
    message, payload = messages[0]
    assert (message.path, message.raw_headers) == ("/a%2Fb?q=%20", ((b"Host", b"x"), (b"X-A", b"1")))
    assert (payload is EMPTY_PAYLOAD, upgraded, tail) == (True, False, b"")


async def test_the_connector_makes_our_protocol_and_connect_hands_it_over():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connector = TCPConnector(force_close=True)
    connector._factory = partial(Channel, loop, "vllm")
    async with ClientSession(connector=connector) as session:
        origin = ClientRequest("GET", URL(f"http://127.0.0.1:{port}/"), loop=loop, session=session)
        connection = await connector.connect(origin, [], ClientTimeout(connect=1))
        assert isinstance(connection.protocol, Channel)
        assert isinstance(connection.protocol, ResponseHandler)
        connection.close()
    server.close()
    await server.wait_closed()


async def test_one_response_parser_reads_many_responses():
    parser = response_parser()
    for _ in range(3):
        ((message, body),), upgraded, tail = parser.feed_data(ANSWER)
        assert (message.code, list(body._buffer), body._eof, upgraded, tail) == (200, [b"ok"], True, False, b"")


async def test_a_chunked_body_arrives_in_the_reader_piece_by_piece():
    parser = response_parser()
    ((message, body),), _, _ = parser.feed_data(CHUNKED + b"2\r\nab\r\n")
    assert (message.chunked, list(body._buffer), body._eof) == (True, [b"ab"], False)
    body._buffer.clear()
    body._http_chunk_splits.clear()
    body._size = 0
    messages, upgraded, tail = parser.feed_data(b"1\r\nc")
    assert (list(messages), upgraded, tail) == ([], False, b"")
    assert list(body._buffer) == [b"c"]
    parser.feed_data(b"\r\n0\r\n\r\n")
    assert body._eof


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_is_complete_with_its_head(status):
    ((_, body),), _, _ = response_parser().feed_data(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert body is EMPTY_PAYLOAD or body._eof


async def test_the_answer_to_head_is_complete_with_its_head():
    ((_, body),), _, _ = response_parser(response_with_body=False).feed_data(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    )
    assert body is EMPTY_PAYLOAD or body._eof


async def test_a_switch_of_protocols_returns_what_follows_as_the_tail():
    head = b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ((message, _),), upgraded, tail = response_parser().feed_data(head + b"\x81\x00")
    assert (message.code, upgraded, tail) == (101, True, b"\x81\x00")
