"""Files and batches with the OpenAI SDK for Python, unchanged.

file = client.files.create(file=open("requests.jsonl", "rb"), purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import Batch

from .conftest import Gateway
from .servers import until

ENDS = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=30) as client:
        yield client


def lines(gateway: Gateway, count: int, **body: object) -> bytes:
    asked = {"model": gateway.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, **body}
    each = {"method": "POST", "url": "/v1/chat/completions", "body": asked}
    return b"".join(json.dumps({"custom_id": f"n{n}", **each}).encode() + b"\n" for n in range(count))


def ended(client: OpenAI, batch: Batch) -> Batch:
    found = [batch]

    def over() -> bool:
        found.append(client.batches.retrieve(batch.id))
        return found[-1].status in ENDS

    until("the end of the batch", over)
    return found[-1]


def test_a_batch_from_its_file_to_its_results(client: OpenAI, gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(lines(gateway, 12))
    file = client.files.create(file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert (file.filename, file.bytes, file.purpose) == ("requests.jsonl", path.stat().st_size, "batch")
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == path.read_bytes()
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"who": "me"},
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (batch.status, batch.metadata) == ("validating", {"who": "me"})
    batch = ended(client, batch)
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (12, 12)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 60
    assert batch.output_file_id is not None
    output = client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 7200)
    found = [json.loads(line) for line in client.files.content(output.id).text.splitlines()]
    assert sorted(each["custom_id"] for each in found) == sorted(f"n{n}" for n in range(12))
    assert {each["response"]["status_code"] for each in found} == {200}
    assert all(each["response"]["body"]["choices"][0]["message"]["content"] for each in found)


def test_lists_go_from_page_to_page(client: OpenAI, gateway: Gateway) -> None:
    files = [client.files.create(file=("in.jsonl", lines(gateway, 1)), purpose="batch") for _ in range(3)]
    batches = [
        client.batches.create(input_file_id=each.id, endpoint="/v1/chat/completions", completion_window="24h")
        for each in files
    ]
    ids = [each.id for each in client.files.list(limit=1, purpose="batch")]
    assert ids[:3] == [each.id for each in reversed(files)]
    assert [each.id for each in client.batches.list(limit=1)][:3] == [each.id for each in reversed(batches)]
    for each in batches:
        ended(client, each)
    for file in files:
        assert client.files.delete(file.id).deleted
        with pytest.raises(NotFoundError):
            client.files.retrieve(file.id)


def test_a_batch_is_cancelled(client: OpenAI, gateway: Gateway) -> None:
    file = client.files.create(file=("in.jsonl", lines(gateway, 2000)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    assert ended(client, batch).status == "cancelled"
    with pytest.raises(NotFoundError):
        client.batches.cancel("batch_" + "0" * 30)


def test_a_bad_line_is_named(client: OpenAI, gateway: Gateway) -> None:
    content = lines(gateway, 1) + lines(gateway, 1, stream=True)
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = ended(
        client,
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"),
    )
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(each.code, each.line, each.param) for each in batch.errors.data] == [
        ("stream_not_supported", 2, "body.stream")
    ]


def test_what_is_refused_is_refused_as_openai_does(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.files.create(file=("in.jsonl", b"{}"), purpose="fine-tune")
    assert (caught.value.param, caught.value.type) == ("purpose", "invalid_request_error")
    with pytest.raises(BadRequestError) as caught:
        client.batches.create(
            input_file_id="file-" + "0" * 30, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert (caught.value.param, caught.value.code) == ("input_file_id", "file_not_found")
