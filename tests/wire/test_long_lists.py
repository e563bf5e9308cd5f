"""An instance that lists thousands of models: others are served meanwhile, and what is over the limit is left out."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from gomodel.balancing.instances import Providers

from ..harness.scripted import SAFETY_S, json_response, request
from ..harness.verdicts import OK, ask, post, turned

LIST = request("GET", "/v1/models")


def lists(upstream, ids):
    body = {"data": [{"id": each, "object": "model", "root": "x" * 300} for each in ids]}
    upstream.on_request(json_response(body), path="/v1/models")


@pytest.fixture
async def pair(gateway, make_upstream):
    """A gateway with the instances `vllm` and `vllm-b`, and those."""
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
    return await gateway(vllm=one, vllm_b=other, CACHE_REFRESH_INTERVAL="1ms"), one, other


def known(handle, name="vllm"):
    return handle.replica(name).models


async def test_others_are_served_while_a_long_list_is_read(pair, connect):
    handle, one, other = pair
    other.repeat(OK)
    reader, client = await connect(handle), await connect(handle)
    assert (await ask(client, post(model="vllm-b/m"))).status == 200
    lists(one, [f"m-{at}" for at in range(9000)])
    await reader.send(LIST)
    served = 0
    async with asyncio.timeout(SAFETY_S):
        while not (one.requests and len(known(handle)) == 9000):
            assert (await ask(client, post(model="vllm-b/m"))).status == 200
            served += bool(one.requests)
    assert served > 14  # at once it would be half as many, and all of them while the list arrives
    assert len((await reader.read_response()).json()["data"]) == 9001


async def test_models_over_the_limit_are_left_out_with_one_warning_until_the_list_is_shorter(
    pair, connect, monkeypatch
):
    for module in ("gomodel.upstream.model_list", "gomodel.balancing.model_lists"):
        monkeypatch.setattr(f"{module}.MODELS_LIMIT", 3)
    handle, one, _ = pair
    client = await connect(handle)

    async def read(ids):
        lists(one, ids)
        before = len(one.requests)
        await asyncio.sleep(0.002)
        await ask(client, LIST)
        await turned(lambda: len(one.requests) == before + 1 and known(handle) == tuple(ids[:3]))
        return [each.getMessage() for each in handle.logs.records if "lists 3 models" in each.getMessage()]

    said = "Instance vllm lists 3 models or more; those behind them are neither offered nor found without its name"
    assert await read(["a", "b"]) == []
    assert await read(["a", "b", "c", "d"]) == [said]
    assert await read(["b", "c", "d", "e"]) == [said]
    assert await read(["b", "c"]) == [said]
    assert await read(["b", "c", "d", "e"]) == [said] * 2
    one.on_request(OK, path="/v1/chat/completions")
    assert (await ask(client, post(model="vllm/e"))).status == 200


async def test_a_list_that_names_a_model_twice_holds_it_once(pair, connect):
    handle, one, _ = pair
    lists(one, ["a", "b", "a", "b", "a"])
    answer = await ask(await connect(handle), LIST)
    assert [each["id"] for each in answer.json()["data"]] == ["vllm/a", "vllm/b", "vllm-b/m"]
    assert known(handle) == ("a", "b")
    assert [each.name for each in handle.gateway.providers.by_model["a"]] == ["vllm"]


@pytest.mark.interpreted
def test_the_index_is_that_of_all_lists_however_they_change():
    """What changed is all that is looked at, so it must come out as if everything had been."""
    dice = random.Random(1)
    instances = [SimpleNamespace(name=name, models=(), listed=frozenset(), gather=list) for name in ("a", "b", "c")]
    table = Providers.__new__(Providers)
    table.instances = {each.name: each for each in instances}
    table.by_model, table._indexed, table._among = {}, {}, {}
    for _ in range(300):
        instance = dice.choice(instances)
        instance.models = tuple(dice.sample("mnopqr", dice.randrange(7)))
        instance.listed = frozenset(instance.models)
        if dice.random() < 0.7:
            table.index()
            expected = {}
            for each in instances:
                for model in each.models:
                    expected.setdefault(model, []).append(each)
            assert table.by_model == expected
