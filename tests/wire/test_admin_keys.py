"""GET /admin/keys on the wire: for operators alone, without a key or a digest in it."""

from hashlib import sha256

import pytest

from gomodel.access import host_usage

from ..harness.keys import ALICE, BOB, MASTER, chat, entry, get
from ..harness.scripted import SSE_HEAD, Stall, chunked
from ..harness.verdicts import OK, ask


@pytest.fixture(autouse=True)
def nothing_used(monkeypatch):
    monkeypatch.setattr(host_usage, "shared", host_usage.HostUsage())


async def test_the_list_says_what_runs_and_what_was_used(keyed, upstream, connect):
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall())
    upstream.repeat(OK)
    text = entry("alice", ALICE, in_flight=2, requests_per_minute=3) + entry("bob", BOB, admin=True)
    handle = await keyed(text, vllm=upstream)
    alice, operator = await connect(handle), await connect(handle)
    await alice.send(chat(ALICE))
    await alice.read_head()
    other = await connect(handle)
    assert [(await ask(other, chat(ALICE))).status for _ in range(3)] == [200, 200, 429]
    for key in (BOB, MASTER):
        answer = await ask(operator, get(key, "/admin/keys"))
        assert (answer.status, answer.get("Cache-Control")) == (200, "no-store")
    report = answer.json()
    assert report["entries"] == 2
    found = {each["name"]: each for each in report["keys"]}
    assert list(found) == ["alice", "bob", "master"]
    assert found["alice"]["running"] == 1
    assert found["alice"]["used"] == {"in_flight": 1, "requests_per_minute": 3}
    assert found["alice"]["refused"] == {"requests_per_minute": 1}
    for secret in (ALICE, BOB, MASTER):
        assert secret.encode() not in answer.body
        assert sha256(secret.encode()).hexdigest().encode() not in answer.body


async def test_it_is_for_operators(keyed, upstream, connect):
    client = await connect(await keyed(entry("alice", ALICE), vllm=upstream))
    assert (await ask(client, get(ALICE, "/admin/keys"))).status == 403
    assert (await ask(client, get("sk-nobody", "/admin/keys"))).status == 401


async def test_without_a_keys_file_it_is_empty(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=MASTER))
    assert (await ask(client, get(MASTER, "/admin/keys"))).json() == {"entries": 0, "keys": []}
