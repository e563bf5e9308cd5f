"""The internals of aiohttp that `downstream/` and `upstream/` lean on; its failures are what a newer aiohttp moved."""

import asyncio
import inspect
from functools import partial
from types import MemberDescriptorType

import aiohttp
import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from gomodel.downstream.client_limit import ClientLimit
from gomodel.downstream.server import Server
from gomodel.upstream.channel import Channel

LIMITS = {"write_idle_s": 1, "keepalive_s": 1, "head_limit_bytes": 1024}
HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Of-No-Length: 1\r\n\r\n",
]


class Protocol(BaseProtocol):
    """As little as a parser needs."""

    def pause_reading(self) -> None:
        raise AssertionError("the parser paused although its limit was not reached")

    def resume_reading(self, resume_parser: bool = True) -> None: ...


def response_parser():
    loop = asyncio.get_running_loop()
    return HttpResponseParser(Protocol(loop), loop, 1, response_with_body=False, auto_decompress=False)


def test_the_tested_minor_version_is_installed():
    assert aiohttp.__version__.startswith("3.14.")


@pytest.mark.parametrize(
    "name",
    [
        "_messages",
        "_waiter",
        "_keepalive_handle",
        "_keepalive_timeout",
        "_next_keepalive_close_time",
        "_force_close",
        "_buffer_paused",
        "_reading_paused",
        "_paused",
        "_drain_waiter",
        "_loop",
        "_task_handler",
    ],
)
async def test_the_server_protocol_has(name):
    protocol = Server(None, None, ClientLimit(1), **LIMITS)()
    assert hasattr(protocol, name)


@pytest.mark.parametrize(
    "name",
    [
        "_process_keepalive",
        "_pause_reading_for_buffer",
        "_resume_reading_for_buffer",
        "_drain_helper",
        "_pause_transport_reading",
        "_resume_transport_reading",
        "force_close",
    ],
)
def test_the_server_protocol_can(name):
    assert callable(getattr(RequestHandler, name))


@pytest.mark.parametrize("name", ["_pause_transport_reading", "_resume_transport_reading"])
def test_the_clients_protocol_can(name):
    assert callable(getattr(ResponseHandler, name))


def test_the_servers_task_is_a_slot():
    assert isinstance(vars(RequestHandler)["_task_handler"], MemberDescriptorType)


def test_a_connection_is_made_by_these_steps():
    source = inspect.getsource(RequestHandler.connection_made)
    for step in (
        "_manager.connection_made(",
        "_next_keepalive_close_time = ",
        "_process_keepalive)",
        "_task_handler = ",
    ):
        assert step in source
    assert "tcp_nodelay(" in inspect.getsource(BaseProtocol.connection_made)


def test_a_lost_client_cancels_the_task():
    source = inspect.getsource(RequestHandler.connection_lost)
    assert "handler_cancellation" in source
    assert "_task_handler.cancel()" in source


def test_the_server_takes_its_options_for_the_protocol():
    parameters = inspect.signature(RequestHandler.__init__).parameters
    assert {"keepalive_timeout", "access_log", "logger"} <= set(parameters)
    assert "handler_cancellation" in inspect.signature(web.Server.__init__).parameters


def request_parser():
    loop = asyncio.get_running_loop()
    return HttpRequestParser(Protocol(loop), loop, 1, response_with_body=False, auto_decompress=False)


async def test_a_request_parser_gives_raw_headers_and_the_raw_target():
    messages, upgraded, tail = request_parser().feed_data(b"GET /a%2Fb?q=%20 HTTP/1.1\r\nHost: x\r\nX-A: 1 \r\n\r\n")
    message, _ = messages[0]
    assert (message.path, message.raw_headers) == ("/a%2Fb?q=%20", ((b"Host", b"x"), (b"X-A", b"1")))
    assert (upgraded, tail) == (False, b"")


REQUESTS = [
    b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
    b"POST /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST /h2c HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n",
]


async def test_a_request_parser_without_bodies_reads_head_after_head():
    parser = request_parser()
    for sent in REQUESTS * 2:
        for at in range(len(sent) - 1):
            assert list(parser.feed_data(sent[at : at + 1])[0]) == []
        ((message, _),), upgraded, tail = parser.feed_data(sent[-1:])
        assert (message.path.encode(), tail) == (sent.split()[1], b"")
        assert upgraded == (message.path == "/tunnel")
        parser.set_upgraded(False)
        ((message, _),), upgraded, tail = parser.feed_data(sent)
        assert (message.path.encode(), tail) == (sent.split()[1], b"")
        parser.set_upgraded(False)


def test_the_connector_opens_connections_and_calls_for_tls_by_name():
    """`pool` puts its own TLS on what comes back."""
    source = inspect.getsource(TCPConnector._create_direct_connection)
    for each in ("self._wrap_create_connection(", "self._factory,", "ssl=sslcontext", "server_hostname=", "req=req"):
        assert each in source
    assert source.count("_wrap_create_connection(") == 1


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


async def test_a_response_parser_without_bodies_reads_head_after_head():
    parser = response_parser()
    for sent in HEADS * 2:
        ((message, body),), upgraded, tail = parser.feed_data(sent)
        assert (message.code, upgraded, tail) == (int(sent[9:12]), False, b"")
        assert body is EMPTY_PAYLOAD or body._eof
        assert message.chunked == (b"chunked" in sent)


@pytest.mark.parametrize("sent", HEADS)
async def test_a_head_in_pieces_is_a_message_with_its_last_byte(sent):
    parser = response_parser()
    for at in range(len(sent) - 1):
        assert list(parser.feed_data(sent[at : at + 1])[0]) == []
    ((message, _),), _, _ = parser.feed_data(sent[-1:])
    assert message.code == int(sent[9:12])


async def test_a_switch_of_protocols_returns_what_follows_as_the_tail():
    head = b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ((message, _),), upgraded, tail = response_parser().feed_data(head + b"\x81\x00")
    assert (message.code, upgraded, tail) == (101, True, b"\x81\x00")
