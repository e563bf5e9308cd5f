"""Whatever an instance does, and in whatever order: one request is at most 1 + RETRY_MAX_RETRIES attempts."""

import random

import pytest

from ..harness.scripted import Close, Fin, ReadHead, ReadRequest, Reset, Send, head, json_response, response
from ..harness.verdicts import OK, access_lines, ask, counted, post

SHUTTING_DOWN = json_response({"error": {"message": "cannot schedule new futures after shutdown"}}, 500)
# What an instance may do to a request; the last one is to refuse the connection.
ACTS = {
    "fin": (ReadRequest(), Fin()),
    "reset": (ReadRequest(), Reset()),
    "close": (ReadHead(), Close()),
    "half": (Send(b"HTTP/1.1 200"), Fin()),
    "interim": (Send(head(100)), Reset()),
    "busy": (response(b"", 503, [("Retry-After", "1")]),),
    "error": (response(b"", 500),),
    "draining": (SHUTTING_DOWN,),
    "ok": (OK,),
    "ok and close": (OK, Fin()),
}


class Ledger:
    """Counts what the gateway attempts, per request, at the instances and not in the gateway."""

    def __init__(self, upstreams, handle):
        self._upstreams = upstreams
        self._handle = handle
        self.before = 0

    def attempts(self):
        """Connects that failed, and requests that came."""
        connects = self._handle.gateway.telemetry.connects
        failed = sum(count for (_, result), count in connects.items() if result != "ok")
        return failed + sum(len(each.requests) for each in self._upstreams)

    def since(self):
        now = self.attempts()
        before, self.before = self.before, now
        return now - before


@pytest.mark.parametrize("seed", range(40))
async def test_one_request_is_never_more_attempts_than_configured(gateway, make_upstream, connect, seed):
    chance = random.Random(seed)
    retries = chance.randrange(4)
    upstreams = [await make_upstream() for _ in range(chance.choice([1, 2, 3]))]
    for upstream in upstreams:
        upstream.lenient = True
    names = ["vllm", "vllm_b", "vllm_c"][: len(upstreams)]
    handle = await gateway(
        {f"{name.upper()}_MODELS": "m" for name in names},
        **dict(zip(names, upstreams, strict=True)),
        CONFIGURED_PROVIDER_MODELS_MODE="allowlist",
        RETRY_MAX_RETRIES=str(retries),
        RETRY_INITIAL_BACKOFF="1ms",
        RETRY_MAX_BACKOFF="1ms",
        CIRCUIT_BREAKER_FAILURE_THRESHOLD=chance.choice(["1", "3", "1000"]),
        CIRCUIT_BREAKER_TIMEOUT="1ms",
    )
    ledger = Ledger(upstreams, handle)
    for number in range(1, 16):
        for upstream in upstreams:
            upstream.listen()
            if chance.random() < 0.3:
                upstream.stop_listening()
            upstream.repeat(*ACTS[chance.choice(list(ACTS))])
        model = chance.choice(["m", "vllm/m"])
        client = await connect(handle)
        answer = await ask(client, post(model=model))
        assert answer.complete
        await counted(handle, number)
        client.fin()
        attempts = ledger.since()
        assert attempts <= 1 + retries, f"request {number}"
        line = access_lines(handle)[-1]
        assert line.get("retries", 0) <= retries
        if answer.status == 200:
            assert attempts == 1 + line.get("retries", 0)
