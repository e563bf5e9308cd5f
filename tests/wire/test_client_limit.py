"""How many clients there may be, who makes room for whom, and what a client is told for whom there is no room."""

import asyncio
import logging

import pytest

from gomodel.downstream import client_limit
from gomodel.downstream.client_limit import ClientLimit

from ..harness.scripted import WaitFor, request
from ..harness.verdicts import OK, ask, counted, own_error, post, served, turned

HEALTH = request("GET", "/health")
VERSION = request("GET", "/p/vllm/version")


class Known:
    """A client that has been idle since then."""

    def __init__(self, idle_since: float | None) -> None:
        self.idle_since = idle_since
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True
        self.idle_since = None


def test_the_client_that_was_idle_longest_goes_first_and_none_that_is_busy_or_was_a_moment_ago():
    limit = ClientLimit(4)
    clients = [Known(8.0), Known(None), Known(3.0), Known(5.0), Known(9.9)]
    gone = []
    for now in (10.0, 10.2, 10.4, 10.45):
        limit.make_room(clients, now)
        gone.append([index for index, each in enumerate(clients) if each.aborted])
    assert gone == [[2], [2, 3], [0, 2, 3], [0, 2, 3]]


def test_a_client_that_has_become_busy_since_it_was_looked_at_stays():
    limit = ClientLimit(4)
    clients = [Known(float(number)) for number in range(16)]
    assert limit.make_room(clients, 100.0)
    clients[1].idle_since = None
    clients[2].idle_since = 99.9
    assert limit.make_room(clients, 100.0) is False
    assert [each.aborted for each in clients] == [True, *[False] * 15]


def test_looking_for_idle_clients_is_not_repeated_at_once():
    limit = ClientLimit(4)
    clients = [Known(None) for _ in range(3)]
    assert not limit.make_room(clients, 6.0)
    clients[0].idle_since = 0.0
    assert not limit.make_room(clients, 6.05)
    assert limit.make_room(clients, 6.2)


def test_a_flood_is_one_line_in_the_log(caplog):
    limit = ClientLimit(16)
    told = [limit.may_wait(count, 0.0) for count in range(17, 1017)]
    assert told == [True] * 8 + [False] * 992
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "16 clients are connected" in caplog.text


class Told:
    """A client that was refused."""

    def __init__(self, *, to_spare: bool = True) -> None:
        self.to_spare = to_spare
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_who_was_refused_longest_ago_gives_up_its_place_unless_it_is_being_answered():
    limit = ClientLimit(16)
    clients = [Told(to_spare=number != 1) for number in range(8)]
    for number, client in enumerate(clients):
        assert limit.may_wait(17 + number, number / 100)
        limit.waits(client, number / 100)
    limit.left(clients[2])
    found = []
    for now in (0.09, 0.105, 0.115, 0.135, 0.136, 0.99):
        found.append((limit.may_wait(25, now), [number for number, each in enumerate(clients) if each.aborted]))
    # Each is sure of its place for a tenth of a second.
    assert found == [
        (False, []),
        (True, [0]),
        (False, [0]),
        (True, [0, 3]),
        (False, [0, 3]),
        (True, [0, 3, 4]),
    ]


@pytest.fixture
def three(monkeypatch):
    """Gateways have room for three clients, and nobody's next request is waited for."""
    monkeypatch.setattr("gomodel.host.descriptors.most_clients", lambda *shares: 3)
    monkeypatch.setattr(client_limit, "_QUIET_S", 0.0)
    monkeypatch.setattr(client_limit, "_LOOK_AGAIN_S", 0.0)


async def busy_clients(gateway, upstream, connect, *, target=None, **settings):
    """A gateway with three clients whose requests wait for `go_on`."""
    go_on = asyncio.Event()
    for _ in range(3):
        upstream.on_request(WaitFor(go_on), OK)
    handle = await gateway(vllm=upstream, **settings)
    clients = [await connect(handle if target is None else None, **(target or {})) for _ in range(3)]
    for number, client in enumerate(clients, 1):
        await client.send(post())
        await upstream.wait_for_request(number)
    return handle, clients, go_on


async def test_a_newcomer_takes_the_place_of_the_client_that_was_idle_longest(gateway, upstream, connect, three):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    clients = [await connect(handle) for _ in range(3)]
    loop = asyncio.get_running_loop()
    for client in (*clients, clients[0]):
        assert (await ask(client)).status == 200
        now = loop.time()
        await turned(lambda now=now: loop.time() > now)  # the loop's clock counts milliseconds
    newcomer = await connect(handle)
    assert (await ask(newcomer)).status == 200
    assert await clients[1].closed == "fin"
    assert (await ask(clients[0])).status == 200
    assert (await ask(clients[2])).status == 200


@pytest.mark.parametrize("listener", ["tcp", "unix"])
async def test_where_all_are_busy_a_newcomer_is_told_to_come_back_and_nobody_else_notices(
    gateway, upstream, connect, three, tmp_path, listener
):
    target = {"path": str(tmp_path / "sock")} if listener == "unix" else None
    settings = {"GOMODEL_UNIX_SOCKET": target["path"], "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1"} if target else {}
    handle, clients, go_on = await busy_clients(gateway, upstream, connect, target=target, **settings)
    newcomer = await connect(None if target else handle, **(target or {}))
    answer = await ask(newcomer)
    own_error(answer, 503, "connection_limit", "overloaded_error")
    assert (answer.get("Retry-After"), answer.get("Connection")) == ("1", "close")
    go_on.set()
    for client in clients:
        assert (await client.read_response()).status == 200
    assert served(upstream) == [1, 1, 1]
    upstream.repeat(OK)
    await turned(lambda: all(each.idle_since is not None for each in handle.gateway._server.clients))
    assert (await ask(await connect(None if target else handle, **(target or {})))).status == 200
    assert await counted(handle, 5) == {200: 4, 503: 1}


async def test_a_liveness_probe_is_answered_whoever_is_connected(gateway, upstream, connect, three):
    handle, _, go_on = await busy_clients(gateway, upstream, connect, GOMODEL_MASTER_KEY="")
    for path in ("/health", "/health/ready", "/metrics"):
        answer = await ask(await connect(handle), request("GET", path))
        assert answer.status in (200, 503)
        assert b"connection_limit" not in answer.body
    go_on.set()


async def test_who_has_no_key_learns_nothing_else_when_turned_away(gateway, upstream, connect, three):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k")
    go_on = asyncio.Event()
    upstream.repeat(WaitFor(go_on), OK)
    for number in range(1, 4):
        client = await connect(handle)
        await client.send(post(headers=[("Authorization", "Bearer k")]))
        await upstream.wait_for_request(number)
    assert (await ask(await connect(handle))).status == 401
    go_on.set()


async def test_a_newcomer_without_room_that_sends_nothing_is_closed_soon_and_a_flood_at_once(
    gateway, upstream, connect, three, monkeypatch
):
    monkeypatch.setattr("gomodel.downstream.server.REFUSED_S", 0.05)
    monkeypatch.setattr(client_limit, "_QUIET_S", 60.0)
    handle, clients, go_on = await busy_clients(gateway, upstream, connect)
    silent = [await connect(handle) for _ in range(30)]
    for each in silent:
        assert await each.closed in ("fin", "reset")
    await turned(lambda: handle.gateway.connections == 3)
    lines = [record for record in handle.logs.records if "clients are connected" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.WARNING]
    go_on.set()
    for client in clients:
        assert (await client.read_response()).status == 200


@pytest.mark.parametrize("first", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"])
async def test_newcomers_who_keep_their_places_for_nothing_lose_them_to_the_next(
    gateway, upstream, connect, three, monkeypatch, first
):
    """Silent, or with their answer and an upload that nobody waits for."""
    monkeypatch.setattr(client_limit, "_QUIET_S", 60.0)
    monkeypatch.setattr(client_limit, "_SURE_S", 0.0)
    handle, clients, go_on = await busy_clients(gateway, upstream, connect)
    waiting = [await connect(handle) for _ in range(ClientLimit(3).refusals)]
    for each in waiting:
        await each.send(first)
        if first:
            assert (await each.read_response()).status == 503
    await turned(lambda: handle.gateway.connections == 3 + len(waiting))
    for number in range(3):
        own_error(await ask(await connect(handle)), 503, "connection_limit", "overloaded_error")
        assert await waiting[number].closed in ("fin", "reset")
    go_on.set()
    for client in clients:
        assert (await client.read_response()).status == 200
