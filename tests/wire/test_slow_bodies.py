"""A body that takes long to read: the requests of others are served meanwhile, and it is read to its end."""

import asyncio
from types import SimpleNamespace

import pytest

from gomodel.relay import body_search
from gomodel.selector.turns import STEPS

from ..harness.forms import PATH, form, part
from ..harness.forms import post as post_form
from ..harness.scripted import request
from ..harness.verdicts import CHAT, OK, ask, post

# Thousands of steps each.
MEMBERS = rb'"\\":1,' * 40 * STEPS
NESTED = b'"a":' + rb'["\\",' * 20 * STEPS + b"0" + b"]" * 20 * STEPS + b","
PARTS = b"".join(part("a", b"\r\n--bX" * 10 * STEPS, "b") for _ in range(4))
CASES = {
    "names that end in an escaped backslash": (CHAT, b'{"b":{"model":1},' + MEMBERS + b'"model":"vllm/m"}'),
    "lists ever deeper": (CHAT, b'{"b":{"model":1},' + NESTED + b'"model":"vllm/m"}'),
    "what a name like it follows": (CHAT, b'{"model":"vllm/m","a":{"model":1},' + MEMBERS + b'"b":1}'),
    "a response that may continue another": ("/v1/responses", b'{"model":"m",' + MEMBERS + b'"a":1}'),
    "a form of what looks like delimiters": (PATH, PARTS + form("vllm/m", boundary="b", wav=b"RIFF")),
}


class Turns:
    """Stops at the first pause in reading a body until `go_on`, and counts the others."""

    def __init__(self, monkeypatch):
        self.count = 0
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(body_search, "asyncio", SimpleNamespace(Lock=asyncio.Lock, sleep=self._sleep))

    async def _sleep(self, seconds):
        assert seconds == 0
        self.count += 1
        self.begun.set()
        await self.go_on.wait()
        await asyncio.sleep(0)


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("target", "body"), CASES.values(), ids=CASES)
async def test_others_are_served_while_a_slow_body_is_read(
    gateway, make_upstream, connect, monkeypatch, target, body, chunks
):
    turns = Turns(monkeypatch)
    upstreams = [await make_upstream() for _ in range(3)]
    for each in upstreams:
        each.repeat(OK)
    names = dict(zip(("vllm", "vllm_b", "vllm_c"), upstreams, strict=True))
    handle = await gateway(**names, VLLM_MODELS="m", VLLM_B_MODELS="m")
    sender, client = await connect(handle), await connect(handle)
    sent = [body[at : at + 50_000] for at in range(0, len(body), 50_000)] if chunks else body
    raw = (
        post_form(sent, "b")
        if target == PATH
        else request("POST", target, [("Content-Type", "application/json")], sent)
    )
    await sender.send(raw)
    await turns.begun.wait()
    assert (await ask(client, post(model="vllm-c/n"))).status == 200
    assert upstreams[0].requests + upstreams[1].requests == []
    turns.go_on.set()
    assert (await sender.read_response()).status == 200
    assert turns.count > 1
    (seen,) = upstreams[0].requests + upstreams[1].requests
    assert seen.body == body.replace(b"vllm/m", b"m")
