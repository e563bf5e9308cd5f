"""How long a name's addresses are used, and that one name's trouble is nobody else's."""

import asyncio
import errno
import logging
import shutil
import socket
import subprocess
import threading

import pytest

from gomodel.upstream import resolver as module
from gomodel.upstream.resolver import LookUps, Resolver

from ...conftest import LOOP
from ...harness.processes import RUN, WITHOUT_UVLOOP
from ...harness.scripted import SAFETY_S, request
from ...harness.verdicts import OK, ask, counted, own_error, post, turned

HOST = "gpu-1.test"
FAR = [f"far-{number}.test" for number in range(8)]
START = RUN if LOOP == "uvloop" else WITHOUT_UVLOOP + RUN
SILENT = "from tests.harness.names import Names; Names().silence('gpu-1.test', 'gpu-2.test'); "
# Brings a new network's loopback up and binds the name server's port; nothing reads from it.
SILENT_SERVER = (
    "import fcntl, socket, struct; server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "fcntl.ioctl(server, 0x8914, struct.pack('16sh14x', b'lo', 1)); server.bind(('127.0.0.1', 53)); "
)
UNREACHABLE = {
    "VLLM_BASE_URL": "http://gpu-1.test/v1",
    "VLLM_TWO_BASE_URL": "http://gpu-2.test/v1",
    "GOMODEL_DRAIN_TIMEOUT": "0",
}


@pytest.fixture
def stale(monkeypatch):
    """Answers are good for no time."""
    monkeypatch.setattr(module, "TTL_S", 0.0)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "PATIENCE_S", SAFETY_S)


@pytest.fixture
def impatient(stale, monkeypatch):
    """`impatient()`: from now on nobody waits for a fresh one longer than a moment, as nobody gets one."""
    return lambda: monkeypatch.setattr(module, "PATIENCE_S", 0.05)


async def numbers(resolver: Resolver) -> list[str]:
    return [each["host"] for each in await resolver.resolve(HOST, 8000, socket.AF_UNSPEC)]


async def settled(resolver: Resolver, names) -> None:
    """No look-up runs any more."""
    await turned(lambda: resolver._names[HOST]._begun is None)


def works(command: list[str]) -> bool:
    found = shutil.which(command[0]) is not None
    return found and not subprocess.run(command, check=False, capture_output=True).returncode


def lookups() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("resolve ")]


async def test_an_answer_has_what_a_connector_wants(names):
    names.answer(HOST, "192.0.2.1", "2001:db8::1")
    found = await Resolver().resolve(HOST, 8000, socket.AF_UNSPEC)
    assert sorted((each["family"], each["host"], each["port"], each["hostname"]) for each in found) == [
        (socket.AF_INET, "192.0.2.1", 8000, HOST),
        (socket.AF_INET6, "2001:db8::1", 8000, HOST),
    ]
    assert [each["host"] for each in await Resolver().resolve(HOST, 1, socket.AF_INET6)] == ["2001:db8::1"]


async def test_each_call_begins_with_another_address(names):
    names.answer(HOST, "192.0.2.1", "192.0.2.2", "192.0.2.3")
    resolver = Resolver()
    assert {(await numbers(resolver))[0] for _ in range(3)} == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}


@pytest.mark.parametrize(
    ("addresses", "only"),
    [
        (["192.0.2.1"], (socket.AF_INET, "192.0.2.1")),
        (["2001:db8::1"], (socket.AF_INET6, "2001:db8::1")),
        (["192.0.2.1", "192.0.2.2"], None),
        (["192.0.2.1", "2001:db8::1"], None),
    ],
)
async def test_an_only_address_is_known_without_asking(names, addresses, only):
    names.answer(HOST, *addresses)
    resolver = Resolver()
    assert resolver.only(HOST) is None
    await numbers(resolver)
    assert resolver.only(HOST) == only


async def test_an_only_address_that_is_stale_is_not_known(names, stale):
    names.answer(HOST, "192.0.2.1")
    resolver = Resolver()
    await numbers(resolver)
    assert resolver.only(HOST) is None


async def test_an_answer_is_asked_for_once_while_it_is_fresh(names):
    names.answer(HOST, "192.0.2.1")
    resolver = Resolver()
    assert await asyncio.gather(*(numbers(resolver) for _ in range(20))) == [["192.0.2.1"]] * 20
    names.answer(HOST, "192.0.2.2")
    assert await numbers(resolver) == ["192.0.2.1"]
    assert names.asked[HOST] == 1


async def test_a_moved_name_is_followed_when_its_answer_is_stale(names, stale):
    names.answer(HOST, "192.0.2.1")
    resolver = Resolver()
    await numbers(resolver)
    names.answer(HOST, "192.0.2.2")
    assert await numbers(resolver) == ["192.0.2.2"]


async def test_a_host_has_one_thread_however_many_wait_for_it(names):
    names.silence(HOST)
    resolver = Resolver()
    waiting = [asyncio.create_task(numbers(resolver)) for _ in range(50)]
    await turned(lambda: names.waiting[HOST] == 1)
    waiting[0].cancel()
    assert lookups().count(f"resolve {HOST}") == 1
    names.answer(HOST, "192.0.2.1")
    assert await asyncio.gather(*waiting[1:]) == [["192.0.2.1"]] * 49
    assert names.asked[HOST] == 1


@pytest.mark.parametrize("number", [socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_MEMORY])
async def test_the_last_addresses_stay_while_the_name_server_cannot_be_asked(names, stale, caplog, number):
    names.answer(HOST, "192.0.2.1")
    resolver = Resolver()
    await numbers(resolver)
    names.fail(HOST, number)
    with caplog.at_level(logging.INFO, "gomodel"):
        for _ in range(5):
            assert await numbers(resolver) == ["192.0.2.1"]
            await settled(resolver, names)
        names.answer(HOST, "192.0.2.2")
        await numbers(resolver)
        await settled(resolver, names)
        assert await numbers(resolver) == ["192.0.2.2"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert HOST in caplog.text


async def test_the_last_addresses_stay_while_the_name_server_is_silent_and_are_waited_for_once(
    names, impatient, caplog
):
    names.answer(HOST, "192.0.2.1")
    resolver = Resolver()
    await numbers(resolver)
    impatient()
    names.silence(HOST)
    assert await numbers(resolver) == ["192.0.2.1"]  # after PATIENCE_S
    for _ in range(1000):
        assert await numbers(resolver) == ["192.0.2.1"]
    assert names.asked[HOST] == 2
    assert len(caplog.records) == 1
    names.answer(HOST, "192.0.2.2")
    await settled(resolver, names)
    assert await numbers(resolver) == ["192.0.2.2"]


async def test_a_name_that_is_taken_back_is_not_reached_at_its_old_address(names, stale):
    names.answer(HOST, "192.0.2.1")
    resolver = Resolver()
    await numbers(resolver)
    names.fail(HOST, socket.EAI_NONAME)
    with pytest.raises(socket.gaierror):
        await numbers(resolver)
    names.answer(HOST, "192.0.2.2")
    assert await numbers(resolver) == ["192.0.2.2"]


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "x..test"])
async def test_what_is_no_host_name_is_an_unknown_one(host):
    with pytest.raises(socket.gaierror):
        await Resolver().resolve(host, 80)


async def test_an_error_is_asked_about_again_at_once_when_nothing_is_known(names):
    names.fail(HOST)
    resolver = Resolver()
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await numbers(resolver)
    names.answer(HOST, "192.0.2.1")
    assert await numbers(resolver) == ["192.0.2.1"]


async def test_a_look_up_without_descriptors_is_no_failure_of_the_name(names, monkeypatch):
    names.fail(HOST, socket.EAI_AGAIN)
    monkeypatch.setattr("gomodel.host.descriptors.limit", lambda: 3)
    with pytest.raises(OSError, match=rf"\[Errno {errno.EMFILE}\]"):
        await numbers(Resolver())


async def test_names_that_nobody_answers_hold_up_no_other_instance(gateway, upstream, connect, names, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", 0.4)
    names.silence(*FAR)
    upstream.repeat(OK)
    instances = {f"vllm_far_{number}": f"http://{host}/v1" for number, host in enumerate(FAR)}
    near = upstream.base_url.replace("127.0.0.1", "localhost")
    handle = await gateway(vllm=near, **instances, probes=True, HTTP_CONNECT_TIMEOUT="60s")
    for number in range(len(FAR)):
        await (await connect(handle)).send(post(model=f"vllm-far-{number}/m"))
    await turned(lambda: sum(names.waiting[host] for host in FAR) == len(FAR))
    client = await connect(handle)
    for _ in range(20):
        # One that may not be repeated has a connection of its own each time.
        assert (await ask(client, request("POST", "/p/vllm/version", body=b"x"))).status == 200
    ready = await ask(client, request("GET", "/health/ready"))
    assert (ready.status, ready.json()["instances"]["vllm"]["state"]) == (200, "up")
    assert (await ask(client, request("GET", "/v1/models"))).json()["data"][0]["id"] == "vllm/m"
    assert len(lookups()) == len(FAR)


async def test_an_instance_is_served_at_its_last_address_while_its_name_server_is_gone(
    gateway, upstream, connect, names, impatient
):
    names.answer(HOST, "127.0.0.1")
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream.base_url.replace("127.0.0.1", HOST))
    client = await connect(handle)
    ask_once = request("POST", "/p/vllm/version", body=b"x")
    assert (await ask(client, ask_once)).status == 200
    impatient()
    for trouble in (names.silence, names.fail):
        trouble(HOST)
        for _ in range(3):
            assert (await ask(client, ask_once)).status == 200
    assert await counted(handle, 7) == {200: 7}


async def test_a_look_up_without_descriptors_is_503_for_now_and_nobodys_failure(gateway, upstream, connect, names):
    names.exhaust(HOST, errno.EMFILE)
    upstream.repeat(OK)
    handle = await gateway(
        vllm=upstream.base_url.replace("127.0.0.1", HOST), probes=True, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1"
    )
    client = await connect(handle)
    for _ in range(3):
        answer = await ask(client)
        own_error(answer, 503, "connection_limit", "overloaded_error")
        assert answer.get("Retry-After") == "1"
    names.answer(HOST, "127.0.0.1")
    assert (await ask(client)).status == 200
    assert handle.replica().breaker.closed
    assert handle.replica().health.failed_at == 0


@pytest.mark.parametrize(("workers", "loop"), [("1", ""), ("2", ""), ("1", WITHOUT_UVLOOP)])
async def test_a_process_ends_at_once_although_a_look_up_hangs(run, workers, loop):
    process = await run({**UNREACHABLE, "GOMODEL_WORKERS": workers}, code=SILENT + loop + RUN)
    await process.listening()
    assert await process.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_process_ends_at_once_although_its_name_server_is_silent(run, tmp_path, workers):
    """The same with a real name server, in a network of its own: what the C library does cannot be scripted."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    wrapper = ["unshare", "-Urnm", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv)]
    if not await asyncio.to_thread(works, [*wrapper, "true"]):
        pytest.skip("no namespaces of one's own here")
    process = await run({**UNREACHABLE, "GOMODEL_WORKERS": workers}, code=SILENT_SERVER + START, wrapper=wrapper)
    await process.listening()
    assert await process.stop() == 0


async def test_check_says_what_it_found_although_a_look_up_hangs(run):
    env = {"VLLM_BASE_URL": "http://gpu-1.test/v1", "HTTP_CONNECT_TIMEOUT": "100ms"}
    process = await run(env, "--check", code=SILENT + START)
    assert await process.ended() == 1
    assert "connection timeout" in process.output


async def test_who_asks_for_a_name_while_it_is_looked_up_shares_the_answer(names):
    names.silence(HOST)
    look_ups = LookUps()
    first, second = look_ups.ask(HOST), look_ups.ask(HOST)
    assert first is second
    await turned(lambda: names.waiting[HOST])
    names.answer(HOST, "127.0.0.7")
    assert [number for _, number in await first] == ["127.0.0.7"]
    assert names.asked[HOST] == 1
    assert look_ups.ask(HOST) is not first
    assert [number for _, number in await look_ups.ask(HOST)] == ["127.0.0.7"]
