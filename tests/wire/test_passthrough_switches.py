"""What of passthrough an operator has to open, and what one can close."""

import pytest

from ..harness.scripted import json_response, request
from ..harness.verdicts import OK, ask, own_error

ADMIN = [
    ("POST", "v1/load_lora_adapter"),
    ("POST", "unload_lora_adapter"),
    ("POST", "adapters"),
    ("DELETE", "adapters/x"),
    ("POST", "scale_elastic_ep"),
    ("POST", "abort_requests"),
    ("POST", "inference/v1/abort_requests"),
    ("POST", "start_profile"),
    ("GET", "fault_tolerance/status"),
    ("POST", "sleep?level=1"),
    ("POST", "sl%65ep"),
    ("POST", "v1/sleep"),
    ("GET", "server_info"),
    ("POST", "collective_rpc"),
    ("POST", "pause/"),
    ("POST", "/sleep"),
    ("POST", "reset_prefix_cache"),
]


@pytest.mark.parametrize(("method", "rest"), ADMIN)
async def test_a_route_that_administers_the_server_is_a_403_until_the_switch_is_on(
    gateway, upstream, connect, method, rest
):
    closed = await gateway(vllm=upstream)
    answer = await ask(await connect(closed), request(method, f"/p/vllm/{rest}"))
    message = own_error(answer, 403, "admin_route_closed", "permission_error")
    assert "PASSTHROUGH_ADMIN_ROUTES=true" in message
    assert upstream.connections == []
    upstream.on_request(json_response({"done": True}))
    opened = await gateway(vllm=upstream, PASSTHROUGH_ADMIN_ROUTES="true")
    answer = await ask(await connect(opened), request(method, f"/p/vllm/{rest}"))
    assert (answer.status, answer.json()) == (200, {"done": True})
    assert upstream.requests[0].target.endswith(rest.removeprefix("v1/").removeprefix("/"))


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/sleep", "/v1/sleep", "/abort_requests", "/adapters"])
async def test_outside_passthrough_an_administrative_route_is_never_served(gateway, upstream, connect, path):
    handle = await gateway(vllm=upstream, PASSTHROUGH_ADMIN_ROUTES="true")
    answer = await ask(await connect(handle), request("POST", path, body=b'{"model":"vllm/m"}'))
    assert (answer.status, upstream.connections) == (404, [])


@pytest.mark.parametrize(
    ("settings", "path", "status"),
    [
        ({"ENABLE_PASSTHROUGH_ROUTES": "false"}, "/p/vllm/version", 404),
        ({"ENABLE_PASSTHROUGH_ROUTES": "false"}, "/p/vllm/v1/models", 404),
        ({"ENABLE_PASSTHROUGH_ROUTES": "false"}, "/p/vllm/sleep", 404),
        ({"ENABLED_PASSTHROUGH_PROVIDERS": "openai"}, "/p/vllm/version", 404),
        ({"ENABLED_PASSTHROUGH_PROVIDERS": "openai,VLLM"}, "/p/vllm/version", 200),
        ({"ALLOW_PASSTHROUGH_V1_ALIAS": "false"}, "/p/vllm/v1/files", 404),
        ({"ALLOW_PASSTHROUGH_V1_ALIAS": "false"}, "/p/vllm/v1/tokenize", 404),
        ({"ALLOW_PASSTHROUGH_V1_ALIAS": "false"}, "/p/vllm/files", 200),
        ({"ALLOW_PASSTHROUGH_V1_ALIAS": "false"}, "/p/vllm/v1/other", 200),
        ({"BASE_PATH": "/gw"}, "/gw/p/vllm/version", 200),
        ({"BASE_PATH": "/gw"}, "/p/vllm/version", 404),
    ],
)
async def test_what_is_switched_off_is_a_404(gateway, upstream, connect, settings, path, status):
    upstream.repeat(OK)
    answer = await ask(await connect(await gateway(vllm=upstream, **settings)), request("GET", path))
    assert answer.status == status
    if status == 404 and "BASE_PATH" not in settings:
        # The switch by its name: whoever is told that there is no such provider looks in the wrong place.
        assert next(iter(settings)) in own_error(answer, 404, "not_found", "invalid_request_error")
    assert len(upstream.requests) == (status == 200)
