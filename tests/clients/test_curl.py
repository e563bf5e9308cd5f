"""curl, as in the README.

    curl -N http://localhost:8080/v1/chat/completions -H "Authorization: Bearer $GOMODEL_MASTER_KEY" \\
        -H "Content-Type: application/json" \\
        -d '{"model": "vllm/<model id>", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Gateway

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

# curl's own words for its exit statuses.
PARTIAL_FILE, GOT_NOTHING, RECV_ERROR, HTTP_RETURNED_ERROR = 18, 52, 56, 22


def curl(gateway: Gateway, path: str, *options: str, body: Any = None) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-q", "-sS", "-N", "--max-time", "60", "-H", f"Authorization: Bearer {gateway.key}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "--data-binary", "@-"]
    given = b"" if body is None else json.dumps(body).encode()
    return subprocess.run(
        [*command, *options, gateway.url + path], input=given, capture_output=True, timeout=90, check=False
    )


def chat(gateway: Gateway, **more: Any) -> dict[str, Any]:
    return {"model": gateway.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, **more}


def test_a_stream_ends_with_done_and_status_0(gateway: Gateway) -> None:
    done = curl(gateway, "/v1/chat/completions", body=chat(gateway, stream=True))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"data: {")
    assert done.stdout.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_connection_outlives_a_stream_and_an_error(gateway: Gateway, version: str) -> None:
    # --http2 offers an upgrade, which is declined by answering.
    shown = ["-o", "/dev/null", "-w", "%{http_code} %{http_version} %{num_connects}\n", version]
    every = ["-q", "-sS", *shown, "-H", f"Authorization: Bearer {gateway.key}", "-H", "Content-Type: application/json"]
    bodies = [chat(gateway, stream=True), chat(gateway, model="nobody"), chat(gateway)]
    commands = [[*every, "-d", json.dumps(body), f"{gateway.url}/v1/chat/completions"] for body in bodies]
    command = ["curl", *commands[0], "--next", *commands[1][1:], "--next", *commands[2][1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.splitlines() == ["200 1.1 1", "404 1.1 0", "200 1.1 0"], done.stderr


@pytest.mark.simulated
def test_a_cut_stream_is_a_partial_file_with_an_error_at_its_end(gateway: Gateway) -> None:
    body = chat(gateway, stream=True)
    cut = curl(gateway, "/v1/chat/completions", "-H", "x-demo-fault: cut", body=body)
    assert cut.returncode == PARTIAL_FILE, cut.stderr
    last = cut.stdout.rstrip().rpartition(b"\n\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stream_interrupted"
    assert b"[DONE]" not in cut.stdout


@pytest.mark.simulated
def test_half_a_json_answer_is_a_partial_file(gateway: Gateway) -> None:
    cut = curl(gateway, "/v1/chat/completions", "-H", "x-demo-fault: cut", body=chat(gateway))
    assert cut.returncode == PARTIAL_FILE, cut.stderr


@pytest.mark.simulated
def test_a_cut_answer_over_http_1_0_is_no_clean_end(gateway: Gateway) -> None:
    body = chat(gateway, stream=True)
    cut = curl(gateway, "/v1/chat/completions", "--http1.0", "-H", "x-demo-fault: cut", body=body)
    assert cut.returncode == RECV_ERROR, (cut.returncode, cut.stdout)


def test_an_error_fails_a_script_that_wants_to_know(gateway: Gateway) -> None:
    failed = curl(gateway, "/v1/chat/completions", "--fail-with-body", body=chat(gateway, model="nobody"))
    assert failed.returncode == HTTP_RETURNED_ERROR
    assert json.loads(failed.stdout)["error"]["code"] == "model_not_found"


def test_models_health_and_metrics_are_a_get_away(gateway: Gateway) -> None:
    assert json.loads(curl(gateway, "/v1/models").stdout)["data"][0]["id"] == gateway.model
    assert json.loads(curl(gateway, f"/v1/models/{gateway.model}").stdout)["id"] == gateway.model
    assert json.loads(curl(gateway, "/health").stdout) == {"status": "ok"}
    assert b"gomodel_requests_total" in curl(gateway, "/metrics").stdout


@pytest.mark.parametrize(
    ("options", "sends_nothing"),
    [(["-H", "Expect: 100-continue"], True), (["-H", "Expect:"], False), (["-H", "Transfer-Encoding: chunked"], False)],
    ids=["asks first", "length", "chunked"],
)
def test_an_upload_over_the_limit_is_refused_as_such(
    gateway: Gateway, tmp_path: Path, options: list[str], sends_nothing: bool
) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b" " * 5_000_000)
    options = [*options, "--data-binary", f"@{large}", "-w", "\n%{http_code} %{size_upload}"]
    refused = curl(gateway, "/v1/chat/completions", *options)
    answer, _, end = refused.stdout.rpartition(b"\n")
    status, sent = map(int, end.split())
    assert status == 413, refused.stderr
    assert json.loads(answer)["error"]["code"] == "body_too_large"
    assert sent == 0 or not sends_nothing


def test_without_the_key_nothing_is_asked_of_the_client(gateway: Gateway, tmp_path: Path) -> None:
    upload = tmp_path / "upload.json"
    upload.write_bytes(b" " * 2_000)
    wrong = ["-H", "Authorization: Bearer wrong", "-H", "Expect: 100-continue", "-v"]
    command = ["curl", "-q", "-sS", *wrong, "--data-binary", f"@{upload}", f"{gateway.url}/v1/chat/completions"]
    refused = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert b"HTTP/1.1 401" in refused.stderr
    assert b"100 Continue" not in refused.stderr


@pytest.mark.serves("/v1/audio/transcriptions")
@pytest.mark.parametrize("model_first", [True, False])
def test_a_form_may_name_the_model_before_or_after_the_file(
    gateway: Gateway, tmp_path: Path, model_first: bool
) -> None:
    recording = tmp_path / "speech.wav"
    recording.write_bytes(b"RIFF" + bytes(200_000))
    fields = ["-F", f"model={gateway.model}", "-F", f"file=@{recording}"]
    fields = fields if model_first else fields[2:] + fields[:2]
    answer = curl(gateway, "/v1/audio/transcriptions", *fields)
    assert "200004 bytes" in json.loads(answer.stdout)["text"]


def test_interrupting_curl_frees_the_slot(gateway: Gateway) -> None:
    body = chat(gateway, stream=True, max_tokens=7500, ignore_eos=True)
    command = ["curl", "-q", "-sS", "-N", "-H", f"Authorization: Bearer {gateway.key}", "-H", "x-demo-tokens-per-s: 20"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body), f"{gateway.url}/v1/chat/completions"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"data: ")
        assert gateway.running() == 1
        # Not SIGINT: curl inherits that as ignored from a job in the background of a shell.
        process.terminate()
        process.wait(30)
    assert gateway.frees_the_slot()
