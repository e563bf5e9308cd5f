"""Whose X-Forwarded-For is believed, how far, and where the client's address then shows."""

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gomodel.http1.forwarded import MAX_HOPS, TrustedProxies

from ...harness.leaks import nothing_left
from ...harness.scripted import Stall, request
from ...harness.verdicts import CHAT, OK, access_lines, ask, post

PEER = "10.0.0.1"
PROXIES = ["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"]


CHAINS = [
    ((), PEER),
    (("198.51.100.1",), "198.51.100.1"),
    (("203.0.113.9, 198.51.100.1",), "198.51.100.1"),
    (("203.0.113.9, 198.51.100.1, 10.2.3.4",), "198.51.100.1"),
    (("203.0.113.9", "198.51.100.1", "192.0.2.7"), "198.51.100.1"),
    (("198.51.100.1,10.2.3.4,192.0.2.7",), "198.51.100.1"),
    (("10.9.9.9, 10.2.3.4",), "10.9.9.9"),
    (("198.51.100.1:5123",), "198.51.100.1"),
    (("[2001:db8::1]:5123",), "2001:db8::1"),
    (("2001:DB8:0::1",), "2001:db8::1"),
    (("198.51.100.1, 2001:db8:1::7",), "198.51.100.1"),
    (("198.51.100.1, ::ffff:10.2.3.4",), "198.51.100.1"),
    (("::ffff:198.51.100.1",), "198.51.100.1"),
    # What is no address ends what is believed.
    (("",), PEER),
    ((",",), PEER),
    (("unknown",), PEER),
    (("unix",), PEER),
    (("_hidden, 10.2.3.4",), "10.2.3.4"),
    (("198.51.100.1, \x1b[2J",), PEER),
    (("198.51.100.1, " + "1" * 100_000,), PEER),
    (("fe80::1%\x1b[2J",), "fe80::1"),
]


@pytest.mark.parametrize(("fields", "client"), CHAINS)
def test_the_client_is_the_last_address_that_is_no_proxys(fields, client):
    assert TrustedProxies(PROXIES).client(PEER, fields) == client


@pytest.mark.parametrize("chain", [chain for chain, _ in CHAINS[1:9]])
async def test_uvicorn_says_the_same(chain):
    heard = []

    async def app(scope, receive, send):
        heard.append(scope["client"][0])

    headers = [(b"x-forwarded-for", value.encode()) for value in chain]
    scope = {"type": "http", "client": (PEER, 1), "scheme": "http", "headers": headers}
    await ProxyHeadersMiddleware(app, PROXIES)(scope, None, None)
    assert heard == [TrustedProxies(PROXIES).client(PEER, chain)]


@pytest.mark.parametrize(
    ("proxies", "peer", "client"),
    [
        (["10.0.0.0/8"], "198.51.100.9", "198.51.100.9"),
        (["10.0.0.0/8"], "unix", "unix"),
        (["unix"], "unix", "203.0.113.9"),
        (["unix"], "10.0.0.1", "10.0.0.1"),
        (["*"], "198.51.100.9", "203.0.113.9"),
        (["*"], "unix", "203.0.113.9"),
    ],
)
def test_only_a_proxy_that_was_named_is_believed(proxies, peer, client):
    assert TrustedProxies(proxies).client(peer, ["203.0.113.9"]) == client


def test_where_everybody_is_believed_the_first_entry_counts():
    everybody = TrustedProxies(["*"])
    assert everybody.client(PEER, ["203.0.113.9, 198.51.100.1"]) == "203.0.113.9"
    assert everybody.client(PEER, ["unknown, 198.51.100.1"]) == PEER


def test_a_chain_of_thousands_of_proxies_is_not_walked_to_its_end():
    chain = ["198.51.100.1, " + ", ".join(f"10.0.{number >> 8}.{number & 255}" for number in range(5000))]
    proxies = TrustedProxies(PROXIES)
    assert proxies.client(PEER, chain) == f"10.0.{(5000 - MAX_HOPS) >> 8}.{(5000 - MAX_HOPS) & 255}"
    assert proxies._hop.cache_info().currsize <= MAX_HOPS + 1


class TestTheWire:
    @pytest.mark.parametrize(
        ("proxies", "client"), [("", "127.0.0.1"), ("10.0.0.0/8", "127.0.0.1"), ("127.0.0.1", "203.0.113.9")]
    )
    async def test_the_access_line_names_the_client(self, gateway, upstream, connect, proxies, client):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream, FORWARDED_ALLOW_IPS=proxies)
        connection = await connect(handle)
        for address in ("203.0.113.9", "203.0.113.9", "203.0.113.10"):
            await ask(connection, post(headers=[("X-Forwarded-For", address)]))
        await ask(connection, post())
        await nothing_left(lambda: [] if len(access_lines(handle)) == 4 else ["a request that runs"])
        believed = proxies == "127.0.0.1"
        other = "203.0.113.10" if believed else client
        assert [line["client"] for line in access_lines(handle)] == [client, client, other, "127.0.0.1"]

    async def test_the_list_of_running_requests_names_the_client(self, gateway, upstream, connect):
        upstream.on_request(Stall())
        handle = await gateway(vllm=upstream, FORWARDED_ALLOW_IPS="127.0.0.1")
        waiting = await connect(handle)
        await waiting.send(post(headers=[("X-Forwarded-For", "203.0.113.9")]))
        await nothing_left(lambda: [] if handle.gateway.telemetry.running.records else ["a request to come"])
        answer = await ask(await connect(handle), request("GET", "/admin/requests"))
        [entry] = answer.json()["requests"]
        assert entry["client"] == "203.0.113.9"

    @pytest.mark.parametrize("proxies", ["", "127.0.0.1"])
    async def test_the_field_is_neither_added_nor_changed_on_the_way_to_an_instance(
        self, gateway, upstream, connect, proxies
    ):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream, FORWARDED_ALLOW_IPS=proxies)
        client = await connect(handle)
        await ask(client, post())
        await ask(client, post(headers=[("X-Forwarded-For", "203.0.113.9")]))
        assert [each.get("X-Forwarded-For") for each in upstream.requests] == [None, "203.0.113.9"]
        assert upstream.requests[0].target == CHAT
