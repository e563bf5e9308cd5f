"""The simulated vLLM: vectors, audio and the realtime socket."""

import base64
import io
import re
import struct
from typing import Any

import pytest
from aiohttp import FormData

from gomodel.simulator import build_app

from .client import MODEL, datas, post


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    return await aiohttp_client(build_app(tokens_per_s=0))


async def test_embeddings_agree_in_every_encoding(client: Any) -> None:
    body = {"input": ["one text", "another", "one text"], "model": MODEL}
    floats = await post(client, "/v1/embeddings", body)
    values = [item["embedding"] for item in floats["data"]]
    assert values[0] == values[2] != values[1]
    assert len(values[0]) == 128
    assert floats["usage"]["prompt_tokens"] == floats["usage"]["total_tokens"] > 0
    packed = await post(client, "/v1/embeddings", {**body, "encoding_format": "base64"})
    for item, value in zip(packed["data"], values, strict=True):
        assert list(struct.unpack("128f", base64.b64decode(item["embedding"]))) == value


@pytest.mark.parametrize(("dimensions", "size"), [(None, 128), (4, 4), (1024, 1024)])
async def test_dimensions_are_what_was_asked_for(client: Any, dimensions: int | None, size: int) -> None:
    answer = await post(client, "/v1/embeddings", {"input": "x", "dimensions": dimensions})
    assert len(answer["data"][0]["embedding"]) == size


def upload(*fields: tuple[str, str], size: int = 3_000_000) -> FormData:
    """A form whose first part is the file, so that the model comes after it."""
    form = FormData()
    form.add_field("file", io.BytesIO(b"\x01" * size), filename="a.wav", content_type="audio/wav")
    for name, value in fields:
        form.add_field(name, value)
    return form


@pytest.mark.parametrize("task", ["transcription", "translation"])
async def test_audio_is_answered_with_its_size_and_hash(client: Any, task: str) -> None:
    async with client.post(f"/v1/audio/{task}s", data=upload(("model", MODEL))) as response:
        assert response.status == 200
        answer = await response.json()
    assert "3000000 bytes" in answer["text"]
    assert re.search(r"SHA-256 begins with [0-9a-f]{16}\.", answer["text"])
    form = upload(("stream", "true"))
    async with client.post(f"/v1/audio/{task}s", data=form) as response:
        text = await response.text()
    assert text.endswith("data: [DONE]\n\n")
    chunks = datas(text.strip("\n").split("\n\n"))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == answer["text"]
    assert {chunk["object"] for chunk in chunks} == {f"{task}.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("form", "status", "param"),
    [
        (upload(("model", "nope"), size=3), 404, "model"),
        (upload(("response_format", "srt"), size=3), 400, None),
        (upload(size=25 * 1024 * 1024 + 1), 400, "audio_filesize_mb"),
        (FormData({"model": MODEL}), 400, "body.file"),
    ],
    ids=["unknown model", "unknown format", "large file", "urlencoded"],
)
async def test_bad_audio_requests_are_refused(client: Any, form: FormData, status: int, param: str | None) -> None:
    async with client.post("/v1/audio/transcriptions", data=form) as response:
        assert response.status == status
        assert (await response.json())["error"]["param"] == param


FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"no boundary at all"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, FILE + b"the end is missing"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, FILE.replace(b"\r\n\r\n", b"\r\na: b" * 200)),
    ],
)
async def test_a_broken_form_is_400(client: Any, headers: Any, form: bytes) -> None:
    async with client.post("/v1/audio/transcriptions", data=form, headers=headers) as response:
        assert response.status == 400


async def test_a_realtime_session_transcribes_what_is_appended(client: Any) -> None:
    audio = base64.b64encode(b"\x00\x01" * 800).decode()
    async with client.ws_connect("/v1/realtime") as socket:
        created = await socket.receive_json()
        assert created["type"] == "session.created"
        for sent in (
            {"type": "session.update", "model": MODEL},
            {"type": "input_audio_buffer.append", "audio": audio},
            {"type": "input_audio_buffer.commit"},
            {"type": "input_audio_buffer.append", "audio": audio},
            {"type": "input_audio_buffer.commit", "final": True},
        ):
            await socket.send_json(sent)
        said = ""
        while (event := await socket.receive_json())["type"] == "transcription.delta":
            said += event["delta"]
        assert event["type"] == "transcription.done"
        assert event["text"] == said
        assert said.count("1600 bytes of audio arrived.") == 2
        assert event["usage"]["prompt_tokens"] == 1600


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("nonsense", "processing_error"),
        ("[]", "processing_error"),
        ('{"type":"session.update","model":"nope"}', "NotFoundError"),
        ('{"type":"input_audio_buffer.commit"}', "model_not_validated"),
        ('{"type":"input_audio_buffer.append","audio":"A"}', "processing_error"),
        ('{"type":"surprise"}', "unknown_event"),
    ],
)
async def test_a_bad_realtime_event_is_answered_and_the_session_goes_on(client: Any, sent: str, code: str) -> None:
    async with client.ws_connect("/v1/realtime") as socket:
        await socket.receive_json()
        for _ in range(2):
            await socket.send_str(sent)
            error = await socket.receive_json()
            assert (error["type"], error["code"]) == ("error", code)
