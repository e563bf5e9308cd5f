"""Addresses that clients get wrong, and those that only vLLM knows: a pointer, or what vLLM says."""

import pytest

from ..harness.scripted import json_response, request, response
from ..harness.verdicts import OK, ask, own_error, post

GONE = json_response({"detail": "Not Found"}, 404)
MEANT = {
    "/chat/completions": "/v1/chat/completions",
    "/Chat/Completions/": "/v1/chat/completions",
    "//v1/chat/completions": "/v1/chat/completions",
    "/v1//chat//completions": "/v1/chat/completions",
    "/v1/chat/completions/": "/v1/chat/completions",
    "/V1/chat/completions": "/v1/chat/completions",
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/v1/v1/v1/completions?x": "/v1/completions",
    "/api/v1/embeddings": "/v1/embeddings",
    "/openai/deployments/gpt/chat/completions?api-version=1": "/v1/chat/completions",
    "/engines/m/completions": "/v1/completions",
    "/responses": "/v1/responses",
    "/models": "/v1/models",
    "/v1/models/": "/v1/models",
    "/V1/models/Org/M": "/v1/models/Org/M",
    "/v1/v1/shipped/tomorrow": "/v1/shipped/tomorrow",
    "/tokenize/": "/tokenize",
    "/v1/health": "/health",
    "/health/": "/health",
    "/v1/metrics": "/metrics",
    "//p/vllm/version": "/p/vllm/version",
    "/P/vllm/x": "/p/vllm/x",
    "/v2/rerank/": "/v2/rerank",
    "/embed": None,
    "/nothing/at/all": None,
    "/v1/responses/a:b": None,
    "/v1/v1/sleep": None,
    "/" + "a/" * 20 + "v1/completions": None,
}


@pytest.mark.parametrize("base", ["", "/gw"])
@pytest.mark.parametrize("path", MEANT)
async def test_a_404_says_the_address_meant(gateway, upstream, connect, path, base):
    client = await connect(await gateway(vllm=upstream, BASE_PATH=base or "/"))
    message = own_error(await ask(client, post(base + path)), 404, "not_found", "invalid_request_error")
    meant = MEANT[path]
    assert message == (f"No such route; did you mean {base}{meant}?" if meant else "No such route.")
    assert upstream.connections == []


@pytest.mark.parametrize("path", ["/messages", "/v1/v1/messages", "/v1/messages/", "/V1/messages/count_tokens"])
async def test_a_404_of_anthropics_routes_has_anthropics_shape(gateway, upstream, connect, path):
    answer = await ask(await connect(await gateway(vllm=upstream)), post(path))
    assert (answer.status, answer.json()["type"]) == (404, "error")
    meant = "/v1/messages/count_tokens" if "count" in path else "/v1/messages"
    assert answer.json()["error"] == {"type": "not_found_error", "message": f"No such route; did you mean {meant}?"}


async def test_outside_the_base_path_a_404_says_the_address_with_it(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, BASE_PATH="/gw"))
    message = own_error(await ask(client, post()), 404, "not_found", "invalid_request_error")
    assert message == "No such route; did you mean /gw/v1/chat/completions?"
    for path in ("/", "/gw"):  # as typed into a browser
        message = own_error(await ask(client, request("GET", path)), 404, "not_found", "invalid_request_error")
        assert message == "No such route; did you mean /gw/?"


@pytest.mark.parametrize("path", ["/p", "/p/", "/p/vllm", "/p/vllm/"])
async def test_a_404_for_an_instance_without_a_path_says_that_one_is_missing(gateway, upstream, connect, path):
    client = await connect(await gateway(vllm=upstream))
    message = own_error(await ask(client, request("GET", path)), 404, "not_found", "invalid_request_error")
    assert message == "No such route; add the path at the instance, as in /p/<instance>/v1/models."


async def test_a_405_says_the_methods(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request("DELETE", "/v1/models"))
    message = own_error(answer, 405, "method_not_allowed", "invalid_request_error")
    assert (message, answer.get("Allow")) == ("DELETE is not allowed here; use GET or HEAD.", "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/version", "/load", "/tokenizer_info", "/ping", "/v1/version?x", "/v1/tokenizer_info"]
)
async def test_what_a_vllm_says_of_itself_is_asked_at_the_base_url_too(gateway, upstream, connect, path):
    upstream.repeat(response(b'{"x":1}'))
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request("GET", path))
    assert (answer.status, answer.body, answer.get("X-GoModel-Provider")) == (200, b'{"x":1}', "vllm")
    assert (await ask(client, request("HEAD", path), "HEAD")).status == 200
    assert [each.target for each in upstream.requests] == [path.removeprefix("/v1")] * 2
    assert (await ask(client, request("PUT", path))).status == 405


@pytest.mark.parametrize("path", ["/version", "/v1/load", "/tokenizer_info", "/ping"])
async def test_of_several_none_speaks_for_all_and_the_404_says_where_each_is(gateway, make_upstream, connect, path):
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other, BASE_PATH="/gw"))
    message = own_error(await ask(client, request("GET", f"/gw{path}")), 404, "not_found", "invalid_request_error")
    assert f"/gw/p/<instance>{path.removeprefix('/v1')} " in message
    assert "vllm, vllm-b" in message
    assert one.connections + other.connections == []


@pytest.mark.parametrize("path", ["tokenize", "detokenize", "pooling", "classify"])
async def test_what_vllm_has_at_its_root_alone_is_served_below_v1(gateway, make_upstream, connect, path):
    one, other = await make_upstream(), await make_upstream()
    other.repeat(OK)
    client = await connect(await gateway(vllm=one, vllm_b=other))
    assert (await ask(client, post(f"/v1/{path}?x", model="vllm-b/m"))).status == 200
    (seen,) = other.requests
    assert (seen.target, seen.body) == (f"/{path}?x", b'{"model": "m", "stream": true}')


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/v1/threads", "/v1/assistants?limit=2", "/v1/vector_stores", "/v1/audio/voices", "/v2/x"]
)
async def test_a_read_that_nobody_knows_is_the_first_instances_to_answer(gateway, make_upstream, connect, path, method):
    one, other = await make_upstream(), await make_upstream()
    one.repeat(GONE if method == "GET" else response(b"", 404))
    client = await connect(await gateway(vllm=one, vllm_b=other))
    answer = await ask(client, request(method, path), method)
    assert (answer.status, answer.get("X-GoModel-Provider"), one.requests[0].target) == (404, "vllm", path)
    assert method == "HEAD" or answer.json() == {"detail": "Not Found"}
    assert other.connections == []


async def test_a_read_that_nobody_knows_goes_to_the_next_instance_when_the_first_is_gone(
    gateway, make_upstream, connect
):
    one, other = await make_upstream(), await make_upstream()
    one.stop_listening()
    other.on_request(GONE)
    client = await connect(await gateway(vllm=one, vllm_b=other))
    answer = await ask(client, request("GET", "/v1/threads"))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (404, "vllm-b")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_what_nobody_knows_goes_to_the_only_instance_whatever_the_method(gateway, upstream, connect, method):
    upstream.repeat(GONE)
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request(method, "/v1/threads/thread-1", body=b'{"a":"b"}'))
    assert (answer.status, answer.json()) == (404, {"detail": "Not Found"})
    (seen,) = upstream.requests
    assert (seen.method, seen.target, seen.body) == (method, "/v1/threads/thread-1", b'{"a":"b"}')


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
async def test_of_several_it_must_name_one_and_the_404_says_how(gateway, make_upstream, connect, method, content_type):
    one, other = await make_upstream(), await make_upstream()
    one.repeat(OK)
    client = await connect(await gateway(vllm=one, vllm_b=other))
    body = (
        b"{}" if "json" in content_type else b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nx\r\n--b--'
    )
    answer = await ask(client, request(method, "/v1/threads?x", [("Content-Type", content_type)], body))
    message = own_error(answer, 404, "not_found", "invalid_request_error")
    assert "/p/<instance>/v1/threads " in message
    assert "vllm, vllm-b" in message
    assert one.connections + other.connections == []
    # One that names a model is vLLM's to judge, as ever.
    if method == "POST":
        assert (await ask(client, post("/v1/threads"))).status == 200


async def test_reads_of_known_routes_still_want_a_post(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/tokenize", "/score"):
        answer = await ask(client, request("GET", path))
        assert (answer.status, answer.get("Allow")) == (405, "POST")
    assert upstream.connections == []
