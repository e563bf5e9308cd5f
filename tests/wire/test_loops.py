"""An instance that is the gateway itself, by another name or another port, is refused and not asked for ever."""

import asyncio
import ipaddress
import socket

import pytest

from gomodel.telemetry.record import Record
from gomodel.telemetry.running import Running
from gomodel.upstream.network import Network

from ..harness.scripted import RawClient, request
from ..harness.verdicts import OK, aborted, ask, counted, own_error, post, tells_nothing, turned

OURS = "gateway.test"


@pytest.mark.parametrize(
    ("listening", "peer", "local", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.1.1", "127.0.0.1", True),
        ("0.0.0.0", "192.0.2.7", "192.0.2.7", True),
        ("0.0.0.0", "192.0.2.7", "192.0.2.8", False),
        ("0.0.0.0", "::1", "::1", False),
        ("::", "::1", "::1", True),
        ("::", "2001:db8::1", "2001:db8::1", True),
        ("::", "192.0.2.7", "192.0.2.7", True),
        ("::", "::ffff:192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7", True),
        ("127.0.0.1", "192.0.2.7", "192.0.2.7", False),
        ("127.0.0.1", "127.0.0.2", "127.0.0.1", False),
        ("::1", "127.0.0.1", "127.0.0.1", False),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::1%eth0", True),
    ],
)
def test_both_ends_of_a_connection_show_whether_it_is_to_a_listener_of_ours(listening, peer, local, expected):
    network = Network([(listening, 8080)])
    rest = (0, 0) if ipaddress.ip_address(peer).version == 6 else ()
    assert network.leads_back((peer, 8080, *rest), (local, 50000, *rest)) is expected
    assert network.leads_back((peer, 8000, *rest), (local, 50000, *rest)) is False
    assert Network().leads_back((peer, 8080, *rest), (local, 50000, *rest)) is False


@pytest.mark.parametrize("peer", [None, "", "/run/vllm.sock"])
def test_a_unix_socket_is_no_listener_of_ours(peer):
    assert Network([("0.0.0.0", 8080)]).leads_back(peer, "") is False


def test_workers_of_one_gateway_have_one_mark_and_other_gateways_others():
    marks = [Network([("127.0.0.1", port)]).mark for port in (8080, 8080, 8081)]
    assert marks[0] == marks[1] != marks[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_an_instance_that_is_this_gateway_by_name_is_refused_without_a_byte(
    gateway, upstream, connect, names, host
):
    port = free_port()
    names.answer(OURS, "127.0.0.1")
    upstream.repeat(OK)
    handle = await gateway(vllm=f"http://{OURS}:{port}/v1", vllm_real=upstream, HOST=host, PORT=str(port), probes=True)
    client = await connect(handle)
    for raw in (post(), request("POST", "/p/vllm/x", body=b"x"), request("GET", "/p/vllm/version")):
        answer = await ask(client, raw)
        message = own_error(answer, 502, "proxy_loop_detected")
        assert "is this gateway itself" in message
        tells_nothing(handle, answer)
    assert (await ask(client, post(model="vllm-real/m"))).status == 200
    # One request each, not one for every hop and retry.
    assert await counted(handle, 4) == {502: 3, 200: 1}
    assert (await aborted(handle, 4)).keys() <= {("upstream", "connect"), ("gomodel", "connect")}
    instance = handle.replica()
    await turned(lambda: instance.health.code == "proxy_loop_detected")
    assert instance.breaker.closed


class Relay:
    """Passes bytes from a port of its own to the gateway's: what a published port or a balancer does."""

    def __init__(self) -> None:
        self.target = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def relay():
    """Closed however the test ends: the event loop's own close would wait for a server that still listens."""
    relay = Relay()
    yield relay
    await relay.close()


async def test_a_gateway_that_is_reached_through_another_port_knows_its_own_probe(
    gateway, upstream, connect, relay, monkeypatch
):
    monkeypatch.setattr("gomodel.upstream.probes.RETRY_S", 0.01)
    port = await relay.start()
    upstream.repeat(OK)
    handle = await gateway(vllm=f"http://127.0.0.1:{port}/v1", PORT=str(free_port()), probes=True)
    instance = handle.replica()
    relay.target = handle.port
    await turned(lambda: instance.health.code == "proxy_loop_detected")
    monkeypatch.setattr("gomodel.upstream.probes.RETRY_S", 0.5)  # no probe comes between the next lines
    last = relay.connections
    await turned(lambda: relay.connections > last)
    before = relay.connections
    client = await connect(handle)
    for raw in (post(), request("POST", "/p/vllm/x", body=b"x")):
        own_error(await ask(client, raw), 502, "proxy_loop_detected")
    assert relay.connections == before
    ready = await ask(client, request("GET", "/health/ready"))
    assert (ready.status, ready.json()["instances"]["vllm"]["last_error"]) == (503, "proxy_loop_detected")
    # Somebody else answers there now.
    relay.target = upstream.port
    instance.health.on_fall()
    await turned(lambda: instance.health.state.value == "up")
    assert (await ask(client)).status == 200
    await handle.gateway.close()


async def test_anybody_elses_health_probe_is_answered(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client: RawClient = await connect(handle)
    for headers in ([], [("X-Request-Id", "f" * 32)]):
        answer = await ask(client, request("GET", "/health", headers))
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


async def test_a_request_that_comes_back_by_way_of_another_gateway_goes_no_further(gateway, connect):
    port = free_port()
    one = await gateway(vllm=f"http://127.0.0.1:{port}/v1", PORT=str(free_port()))
    other = await gateway(vllm=f"http://127.0.0.1:{one.port}/v1", PORT=str(port))
    client = await connect(one)
    for raw in (post(), request("POST", "/p/vllm/v1/chat/completions", body=b"{}")):
        assert "got it back" in own_error(await ask(client, raw), 508, "proxy_loop_detected")
    # Each went once around.
    assert await counted(one, 4) == {508: 4}
    assert await counted(other, 2) == {508: 2}


async def test_an_id_of_the_clients_own_goes_around_so_often_and_no_further(gateway, connect, monkeypatch):
    monkeypatch.setattr("gomodel.telemetry.running.SAME_ID", 10)
    port = free_port()
    one = await gateway(vllm=f"http://127.0.0.1:{port}/v1", PORT=str(free_port()))
    other = await gateway(vllm=f"http://127.0.0.1:{one.port}/v1", PORT=str(port))
    message = own_error(
        await ask(await connect(one), post(headers=[("X-Request-Id", "mine")])), 508, "proxy_loop_detected"
    )
    assert "Too many requests with this X-Request-Id" in message
    await turned(lambda: not one.gateway.telemetry.running.records)
    turns = sum((await counted(one, 0)).values())
    assert 10 < turns <= 32
    assert sum((await counted(other, 0)).values()) in (turns - 1, turns)


def test_many_requests_of_one_id_are_a_loop_and_as_many_of_several_are_none(monkeypatch):
    monkeypatch.setattr("gomodel.telemetry.running.SAME_ID", 20)
    running = Running(on_lag=lambda _: None)

    def found() -> int:
        """How many of 160 that come one after the other, and stay, are refused."""
        refused = 0
        running.records.clear()
        for number in range(160):
            record = Record("POST", "", 0.0)
            record.id = names[number % len(names)]
            running.records.add(record)
            refused += running.goes_around(record)
        return refused

    names = ["mine"]
    assert found() == 160 // 16 - 1  # not in the first 16 of them, which are not too many yet
    names = [f"mine-{number}" for number in range(8)]
    assert found() == 0


def test_only_an_id_of_its_own_that_runs_shows_a_request_that_came_back():
    running, elsewhere = Running(on_lag=lambda _: None), Running(on_lag=lambda _: None)
    first, second = Record("POST", "", 0.0), Record("POST", "", 0.0)
    for given, expected in ((running.new_id(), True), (elsewhere.new_id(), False), ("abc", False)):
        first.id = second.id = given
        running.records = {first, second}
        assert running.came_back(second) is expected
        running.records = {second}
        assert running.came_back(second) is False
