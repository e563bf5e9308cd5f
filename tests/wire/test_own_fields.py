"""What an instance adds to its requests: the operator's fixed fields, and the rank of a data-parallel engine."""

import asyncio
from hashlib import sha256

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import ConfigError

from ..harness.gateway import DEFAULTS
from ..harness.scripted import LAST_CHUNK, SSE_HEAD, ReadHead, WaitFor, chunked, request
from ..harness.verdicts import OK, ask, post

RANK = "X-data-parallel-rank"


SETTINGS = {"VLLM_HEADERS": "X-Team: search | X-Route: a:b, c"}


class TestFields:
    async def test_go_with_every_request_of_the_instance_and_of_no_other(self, gateway, make_upstream, connect):
        one, other = await make_upstream(), await make_upstream()
        for each in (one, other):
            each.repeat(OK)
        handle = await gateway(SETTINGS, vllm=one, vllm_b=other)
        client = await connect(handle)
        for raw in (post(), post(), request("GET", "/p/vllm/version"), post(model="vllm-b/m")):
            assert (await ask(client, raw)).status == 200
        assert [(each.get("X-Team"), each.get("X-Route")) for each in one.requests] == [("search", "a:b, c")] * 3
        assert other.requests[0].get("X-Team") is None

    async def test_take_the_place_of_the_clients(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(SETTINGS, vllm=upstream)
        client = await connect(handle)
        for value in ("mine", "mine", "another", "longer than that"):  # heads that repeat take a shorter way
            raw = post(headers=[("x-team", value), ("X-Kept", value), ("X-TEAM", "twice")])
            assert (await ask(client, raw)).status == 200
            assert upstream.requests[-1].get_all("X-Team") == ["search"]
            assert upstream.requests[-1].get("X-Kept") == value

    async def test_may_say_whose_key_it_was(self, gateway, upstream, connect, tmp_path):
        upstream.repeat(OK)
        keys = tmp_path / "keys.toml"
        keys.write_text(f'[keys.alice]\nsha256 = "{sha256(b"a").hexdigest()}"\n')
        handle = await gateway(
            vllm=upstream,
            VLLM_HEADERS="X-Caller: key {key}!|X-Team: t",
            GOMODEL_MASTER_KEY="k",
            GOMODEL_KEYS_FILE=str(keys),
        )
        client = await connect(handle)
        for key, caller in (("a", "key alice!"), ("k", "key master!")):
            raw = post(headers=[("x-api-key", key), ("X-Caller", "forged")])
            assert (await ask(client, raw)).status == 200
            assert (upstream.requests[-1].get("X-Caller"), upstream.requests[-1].get("X-Team")) == (caller, "t")

    async def test_say_nothing_of_a_key_where_callers_are_not_told_apart(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream, VLLM_HEADERS="X-Caller: key {key}!|X-Team: t")
        assert (await ask(await connect(handle), post(headers=[("X-Caller", "forged")]))).status == 200
        assert (upstream.requests[-1].get("X-Caller"), upstream.requests[-1].get("X-Team")) == (None, "t")

    async def test_come_and_go_with_a_reload(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream)
        replica = handle.replica()
        for settings, team in ((SETTINGS, "search"), ({}, None)):
            handle.gateway.reload(from_environ({**DEFAULTS, "VLLM_BASE_URL": upstream.base_url, **settings}))
            assert (await ask(await connect(handle), post())).status == 200
            assert upstream.requests[-1].get("X-Team") == team
            assert handle.replica() is replica


class TestRanks:
    async def test_a_conversation_has_one_and_all_have_some(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream, VLLM_DP_RANKS="4")
        client = await connect(handle)
        ranks = {}
        for turn in range(2):
            for name in range(40):
                assert (await ask(client, post(headers=[("X-Session-ID", f"s{name}")]))).status == 200
                rank = upstream.requests[-1].get(RANK)
                assert ranks.setdefault(name, rank) == rank, turn
        assert set(ranks.values()) == {"0", "1", "2", "3"}

    async def test_without_anything_that_names_it_the_idlest_takes_it(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, VLLM_DP_RANKS="4", ROUTING="least")
        go_on = asyncio.Event()
        clients = [await connect(handle) for _ in range(8)]
        for client in clients:
            upstream.on_request(ReadHead(), SSE_HEAD + chunked(b"data: x\n\n"), WaitFor(go_on), LAST_CHUNK)
            await client.send(post())
            await client.read_head()
        assert sorted(each.get(RANK) for each in upstream.requests) == ["0", "0", "1", "1", "2", "2", "3", "3"]
        go_on.set()
        for client in clients:
            assert (await client.read_rest()).complete
        assert handle.replica().ranks.counts == [0] * 4

    async def test_one_that_the_client_names_stays(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream, VLLM_DP_RANKS="4")
        client = await connect(handle)
        for name in (RANK, RANK.lower()):
            assert (await ask(client, post(headers=[(name, "7")]))).status == 200
            assert upstream.requests[-1].get_all(RANK) == ["7"]
        assert handle.replica().ranks.counts == [0] * 4

    async def test_a_server_that_cannot_be_reached_leaves_no_count_behind(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, VLLM_DP_RANKS="2")
        assert (await ask(await connect(handle), post())).status == 502
        assert handle.replica().ranks.counts == [0, 0]

    async def test_every_replica_has_its_own(self, gateway, make_upstream, connect):
        upstreams = [await make_upstream() for _ in range(2)]
        for each in upstreams:
            each.repeat(OK)
        handle = await gateway(vllm=",".join(each.base_url for each in upstreams), VLLM_DP_RANKS="2")
        client = await connect(handle)
        for name in range(40):
            assert (await ask(client, post(headers=[("X-Session-ID", f"s{name}")]))).status == 200
        for each in upstreams:
            assert {request.get(RANK) for request in each.requests} == {"0", "1"}


def test_a_rank_is_none_without_the_setting():
    assert from_environ({}).instances[0].dp_ranks == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X-Team", "field 1 has no name and value"),
        ("X-Team:", "field 1 has no name and value"),
        ("X-A: b|", "field 2 has no name and value"),
        ("X A: b", "field 1 has no name and value"),
        (": b", "field 1 has no name and value"),
        ("X-A: b|x-a: c", "'x-a' is there twice"),
        ("X-A: b\u00e9", "the value of 'X-A' has a character outside printable ASCII"),
        ("X-A: b\r\nX-B: c", "the value of 'X-A' has a character outside printable ASCII"),
        *[
            (f"{name}: x", f"{name!r} is the gateway's own to write, or the client's")
            for name in (
                "Host",
                "authorization",
                "Content-Length",
                "Transfer-Encoding",
                "TE",
                "X-Request-Id",
                "Upgrade",
            )
        ],
    ],
)
def test_what_is_no_field_that_may_be_fixed_is_a_problem(text, message):
    with pytest.raises(ConfigError) as caught:
        from_environ({"VLLM_BASE_URL": "http://gpu/v1", "VLLM_HEADERS": text, "GOMODEL_MASTER_KEY": "k"})
    assert f"VLLM_HEADERS: {message}" in str(caught.value)
