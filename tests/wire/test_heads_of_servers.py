"""A head that came before goes to another server with that one's own key, name and path, whatever went to the first."""

import json

import pytest

from ..harness.scripted import request
from ..harness.verdicts import OK, ask
from .test_busy_instances import BUSY

KEYS = {"VLLM_A_API_KEY": "sk-of-the-first", "VLLM_B_API_KEY": "sk-of-the-second"}


def chat(model: str, number: int = 0) -> bytes:
    """Of one length for all models; `number` 0 for heads that are equal."""
    fields = [("traceparent", f"00-{number:032x}-{number:016x}-01")] if number else []
    return request("POST", "/v1/chat/completions", fields, json.dumps({"model": model}).encode())


@pytest.mark.parametrize("differ", [False, True], ids=["equal", "with a trace each"])
async def test_servers_in_turn_on_one_connection(gateway, make_upstream, connect, differ):
    first, second = await make_upstream(), await make_upstream()
    for each in (first, second):
        each.repeat(OK)
    client = await connect(await gateway(vllm_a=first, vllm_b=second, **KEYS))
    for number, model in enumerate(["vllm-a/m", "vllm-a/m", "vllm-b/m", "vllm-b/m", "vllm-a/m", "vllm-b/m"], 1):
        assert (await ask(client, chat(model, number * differ))).status == 200
    for upstream, key, expected in ((first, "sk-of-the-first", 3), (second, "sk-of-the-second", 3)):
        got = [each for each in upstream.requests if each.method == "POST"]
        assert len(got) == expected
        assert {each.get("Authorization") for each in got} == {f"Bearer {key}"}
        assert {each.get("Host") for each in got} == {f"127.0.0.1:{upstream.port}"}


async def test_failing_over_to_another_instance(gateway, make_upstream, connect):
    first, second = await make_upstream(models=("m",)), await make_upstream(models=("m",))
    handle = await gateway(
        {"VLLM_B_BASE_URL": second.base_url.removesuffix("/v1") + "/team-b/v1"},
        vllm_a=first,
        VLLM_B_MODELS="m",
        VLLM_A_MODELS="m",
        CONFIGURED_PROVIDER_MODELS_MODE="allowlist",
        **KEYS,
    )
    client = await connect(handle)
    first.repeat(OK)
    second.repeat(OK)
    for _ in range(6):  # each has had this head
        assert (await ask(client, chat("m"))).status == 200
    first.repeat(BUSY)
    for _ in range(4):
        assert (await ask(client, chat("m"))).status == 200
    got = [each for each in second.requests if each.method == "POST"]
    assert got
    assert {each.get("Authorization") for each in got} == {"Bearer sk-of-the-second"}
    assert {each.target for each in got} == {"/team-b/v1/chat/completions"}
    assert {each.get("Host") for each in got} == {f"127.0.0.1:{second.port}"}


async def test_a_body_that_names_no_model_of_its_instance_is_counted(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await ask(client, chat("vllm/m"))
    assert (await ask(client, chat("vllm/"))).status == 400
    assert handle.gateway.app._operations._telemetry.traffic[""].request_bytes == len(json.dumps({"model": "vllm/"}))
