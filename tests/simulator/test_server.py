"""The simulated vLLM: what it says about itself, and its refusals."""

import gzip
from typing import Any

import pytest

from gomodel.simulator import build_app

from .client import ASK, CHAT, JSON, MODEL, post


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    return await aiohttp_client(build_app(tokens_per_s=0))


async def test_models_have_the_fields_of_vllm(client: Any) -> None:
    async with client.get("/v1/models") as response:
        (base,) = (await response.json())["data"]
    assert (base["id"], base["owned_by"], base["parent"], base["max_model_len"]) == (MODEL, "vllm", None, 131072)
    assert base["permission"][0]["id"].startswith("modelperm-")


async def test_detokenize_undoes_tokenize(client: Any) -> None:
    text = "Zażółć gęślą jaźń, 你好!"
    tokenized = await post(client, "/tokenize", {"prompt": text})
    assert tokenized["count"] == len(tokenized["tokens"])
    assert await post(client, "/detokenize", {"tokens": tokenized["tokens"]}) == {"prompt": text}


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/health", 200, b""),
        ("GET", "/ping", 200, b""),
        ("POST", "/ping", 200, b""),
        ("GET", "/version", 200, b'{"version":"0.33.0+simulated"}'),
        ("HEAD", "/health", 405, b""),
        ("GET", CHAT, 405, b'{"detail":"Method Not Allowed"}'),
        ("DELETE", "/v1/responses/resp_x", 405, b'{"detail":"Method Not Allowed"}'),
        ("GET", "/v1/models/x", 404, b'{"detail":"Not Found"}'),
        ("GET", "/v1/realtime", 404, b'{"detail":"Not Found"}'),
        ("GET", "//v1/models", 404, b'{"detail":"Not Found"}'),
        ("GET", "/nope/", 404, b'{"detail":"Not Found"}'),
    ],
)
async def test_small_answers_are_those_of_vllm(client: Any, method: str, path: str, status: int, body: bytes) -> None:
    url = f"{client.make_url('/')}{path.removeprefix('/')}"
    async with client.session.request(method, url, allow_redirects=False) as response:
        assert (response.status, await response.read()) == (status, body)
        assert response.headers["Server"] == "uvicorn"
        assert ("Content-Type" in response.headers) == bool(body or status == 405)
        if status == 405:
            assert response.headers["Allow"] in ("GET", "POST")


BAD = "Bad Request"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        (CHAT, {"model": "nope", "messages": ASK}, 404, "NotFoundError", "model"),
        (CHAT, {"model": "nope", "messages": ASK, "stream": True}, 404, "NotFoundError", "model"),
        ("/tokenize", {"model": "nope", "prompt": "x"}, 404, "NotFoundError", "model"),
        ("/v1/embeddings", {"model": "nope", "input": "x"}, 404, "NotFoundError", "model"),
        (CHAT, {"model": 5, "messages": ASK}, 400, BAD, "body.model"),
        (CHAT, {}, 400, BAD, "body.messages"),
        (CHAT, {"messages": "hi"}, 400, BAD, "body.messages"),
        (CHAT, {"messages": ["hi"]}, 400, BAD, "body.messages.0"),
        (CHAT, {"messages": [{"content": "x"}]}, 400, BAD, "body.messages.0.role"),
        (CHAT, {"messages": []}, 400, "BadRequestError", None),
        (CHAT, {"messages": ASK, "max_tokens": "many"}, 400, BAD, "body.max_tokens"),
        (CHAT, {"messages": ASK, "max_tokens": 1.5}, 400, BAD, "body.max_tokens"),
        (CHAT, {"messages": ASK, "stream": "maybe"}, 400, BAD, "body.stream"),
        (CHAT, {"messages": ASK, "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        (CHAT, {"messages": ASK, "max_tokens": 200_000, "stream": True}, 400, "BadRequestError", "max_tokens"),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 140_000}]}, 400, "BadRequestError", "input_tokens"),
        (CHAT, {"messages": ASK, "n": 0}, 400, "BadRequestError", "n"),
        (CHAT, {"messages": ASK, "temperature": -1}, 400, "BadRequestError", "temperature"),
        (CHAT, {"messages": ASK, "stream_options": {}}, 400, "BadRequestError", "stream_options"),
        (CHAT, {"messages": ASK, "tool_choice": "required"}, 400, "BadRequestError", "tool_choice"),
        (CHAT, {"messages": ASK, "tools": []}, 400, "BadRequestError", "tools"),
        (
            CHAT,
            {"messages": ASK, "response_format": {"type": "json_schema"}},
            400,
            "BadRequestError",
            "response_format",
        ),
        ("/v1/completions", {"model": MODEL}, 400, "BadRequestError", "prompt"),
        ("/v1/completions", {"prompt": [{}]}, 400, BAD, "body.prompt"),
        ("/v1/embeddings", {"model": MODEL}, 400, BAD, "body.input"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "hex"}, 400, BAD, "body.encoding_format"),
        ("/v1/embeddings", {"input": "x", "dimensions": 0}, 400, "BadRequestError", "dimensions"),
        ("/v1/responses", {"model": MODEL}, 400, BAD, "body.input"),
        ("/v1/responses", {"input": "x", "previous_response_id": "no"}, 404, "invalid_request_error", "response_id"),
        ("/v1/responses/no/cancel", {}, 404, "invalid_request_error", "response_id"),
        ("/v1/messages", {"messages": ASK, "max_tokens": 3}, 400, BAD, "body.model"),
        ("/v1/messages", {"model": MODEL, "messages": ASK}, 400, BAD, "body.max_tokens"),
        ("/detokenize", {"tokens": ["x"]}, 400, BAD, "body.tokens"),
    ],
)
async def test_refusals_have_the_body_of_vllm(
    client: Any, path: str, body: Any, status: int, kind: str, param: str | None
) -> None:
    error = (await post(client, path, body, status))["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)
    if status == 404 and param == "model":
        assert error["message"] == "The model `nope` does not exist. Valid aliases: demo/llama-sim."


@pytest.mark.parametrize(
    ("data", "headers", "message"),
    [
        (b"{}", {"Content-Type": "text/plain"}, "Unsupported Media Type: Only 'application/json' is allowed"),
        (b'{"model":', {"Content-Type": "application/json; charset=utf-8"}, "json_invalid"),
        (b"[1]", JSON, "dict_type"),
        (b'{"n":' + b"1" * 5000 + b"}", JSON, "There was an error parsing the body"),
        (b"[" * 200_000, JSON, "There was an error parsing the body"),
        (b"", JSON, "json_invalid"),
        (b"\x1f\x8b\x00\xff", JSON, "There was an error parsing the body"),
        (gzip.compress(b"{}", mtime=0), {**JSON, "Content-Encoding": "gzip"}, "There was an error parsing the body"),
    ],
)
async def test_a_body_that_is_no_json_object_is_400(client: Any, data: bytes, headers: Any, message: str) -> None:
    async with client.post(CHAT, data=data, headers=headers) as response:
        assert response.status == 400
        assert message in await response.text()


async def test_anthropic_refusals_have_anthropic_shape(client: Any) -> None:
    body = {"model": "nope", "max_tokens": 3, "messages": ASK}
    error = await post(client, "/v1/messages", body, 404)
    assert error["type"] == "error"
    assert error["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/v1/models", None, 401),
        ("/v1/models", "Bearer wrong", 401),
        ("/v1/models", "Basic sesame", 401),
        ("/v1/models", "bEaReR sesame", 200),
        ("/v1/nope", None, 401),
        ("/v2/nope", None, 401),
        ("/inference/nope", None, 401),
        ("/cohere/nope", "Bearer sesame", 404),
        ("/health", None, 200),
        ("/metrics", None, 200),
        ("/nope", None, 404),
    ],
)
async def test_the_key_guards_four_prefixes_only(
    aiohttp_client: Any, path: str, authorization: str | None, status: int
) -> None:
    client = await aiohttp_client(build_app(api_key="sesame"))
    headers = {} if authorization is None else {"Authorization": authorization}
    async with client.get(path, headers=headers) as response:
        assert response.status == status
        if status == 401:
            assert await response.json() == {"error": "Unauthorized"}
            assert "WWW-Authenticate" not in response.headers
