"""Each worker exports the spans of its own requests, and what is left of them when it ends."""

from ..harness.collector import attributes
from ..harness.scripted import RawClient, env_for, request
from ..harness.verdicts import OK, ask

POST = request("POST", "/v1/chat/completions", [("Connection", "close")], b'{"model": "m"}')


async def test_what_workers_served_reaches_the_collector_before_they_end(run, upstream, collector):
    upstream.repeat(OK)
    env = {"GOMODEL_WORKERS": "2", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    process = await run({**env_for(vllm=upstream), **env})
    await process.listening()
    ids = set()
    for _ in range(20):
        client = await RawClient.connect(process.port)
        ids.add((await ask(client, POST)).get("X-Request-Id"))
        client.wire.close()
    assert await process.stop() == 0
    assert {attributes(span)["gomodel.request_id"] for span in collector.spans} == ids
    assert len(collector.spans) == 20
