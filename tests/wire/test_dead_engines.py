"""An engine that is dead behind a server that goes on to answer: refusals do not make the instance up."""

import logging

import pytest

from ..harness.scripted import json_response, request
from ..harness.verdicts import OK, ask, post, turned

READY = request("GET", "/health/ready")
DEAD = json_response({}, 503)
REFUSALS = [400, 401, 403, 404, 422, 429, 500, 501, 503]


@pytest.fixture
async def dead(gateway, upstream, connect, caplog, monkeypatch):
    """A gateway whose instance is down, and will not be asked again by itself; and a client."""
    caplog.set_level(logging.INFO, "gomodel")
    monkeypatch.setattr("gomodel.upstream.probes.RETRY_S", 60.0)
    upstream.answer_probes("/health", DEAD)
    handle = await gateway(vllm=upstream, probes=True, RETRY_MAX_RETRIES="0")
    health = handle.gateway.providers.replicas[0].health
    await turned(lambda: health.code == "engine_dead")
    return handle, await connect(handle)


@pytest.mark.parametrize("status", REFUSALS)
async def test_what_it_refuses_does_not_outweigh_a_probe(dead, upstream, connect, caplog, status):
    handle, client = dead
    upstream.repeat(json_response({"error": {"message": "no"}}, status))
    for _ in range(3):
        assert (await ask(client, post())).status >= 400
        ready = await ask(await connect(handle), READY)
        assert (ready.status, ready.json()["instances"]["vllm"]["state"]) == (503, "down")
    assert "Instance vllm is up" not in caplog.messages


async def test_what_it_does_does(dead, upstream, connect):
    handle, client = dead
    upstream.repeat(OK)
    assert (await ask(client, post())).status == 200
    assert (await ask(await connect(handle), READY)).json()["instances"]["vllm"]["state"] == "up"
