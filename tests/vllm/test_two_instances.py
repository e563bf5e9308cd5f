"""Two vLLM servers with different models: one writes, one embeds and has no key."""

import base64
import http.client
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import processes
from .conftest import Tapped, settings
from .processes import MODEL, Server
from .questions import CALLER, QUESTIONS
from .tap import Tap
from .wire import get, masked, post

pytestmark = pytest.mark.slow

EMBEDDING_MODEL = "tiny/embed"
EMBEDDING_SELECTOR = f"vllm-embed/{EMBEDDING_MODEL}"


@pytest.fixture(scope="module")
def embedder(directory: Path) -> Iterator[Server]:
    # The front end in Rust has no route for embeddings.
    server = processes.start_vllm(
        directory, "--runner", "pooling", "--convert", "embed", name=EMBEDDING_MODEL, rust=False
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def both(directory: Path, vllm: Server, embedder: Server) -> Iterator[Tapped]:
    """gomodel in front of the two; what it says to the embedder is recorded."""
    tap = Tap(embedder.port)
    try:
        gateway = processes.start_gateway(
            directory,
            settings(vllm.port, VLLM_EMBED_BASE_URL=f"http://127.0.0.1:{tap.port}/v1", CACHE_REFRESH_INTERVAL="1h"),
        )
        get(gateway, "/v1/models", CALLER)
        yield Tapped(gateway, tap)
        gateway.stop()
    finally:
        tap.close()


@pytest.fixture(autouse=True)
def forget(both: Tapped) -> None:
    both.tap.forget()


def test_the_list_holds_both_in_the_order_of_their_names(both: Tapped) -> None:
    listed = get(both.gateway, "/v1/models", CALLER).json()["data"]
    assert [model["id"] for model in listed] == [f"vllm/{MODEL}", EMBEDDING_SELECTOR]
    assert get(both.gateway, f"/v1/models/{EMBEDDING_SELECTOR}", CALLER).json()["id"] == EMBEDDING_SELECTOR


def test_a_bare_model_id_goes_to_the_instance_that_lists_it(both: Tapped) -> None:
    embedded = post(both.gateway, "/v1/embeddings", {"model": EMBEDDING_MODEL, "input": "x"}, CALLER)
    assert (embedded.status, embedded.header("x-gomodel-provider")) == (200, "vllm-embed")
    written = post(both.gateway, "/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}, CALLER)
    assert (written.status, written.header("x-gomodel-provider")) == (200, "vllm")


def test_an_instances_name_is_binding(both: Tapped) -> None:
    answer = post(both.gateway, "/v1/embeddings", {"model": f"vllm/{EMBEDDING_MODEL}", "input": "x"}, CALLER)
    assert (answer.status, answer.header("x-gomodel-provider")) == (404, "vllm")
    assert both.tap.sent() == b""


def test_a_model_nobody_lists_is_gomodels_own_404(both: Tapped) -> None:
    answer = post(both.gateway, "/v1/embeddings", {"model": "tiny/embedd", "input": "x"}, CALLER)
    assert answer.problem() == (404, "model_not_found")
    assert EMBEDDING_MODEL in answer.json()["error"]["message"]


def test_a_body_without_model_is_refused_when_there_is_a_choice(both: Tapped) -> None:
    answer = post(both.gateway, "/v1/completions", {"prompt": "x"}, CALLER)
    assert answer.problem() == (400, "model_required")


def test_an_instance_without_a_key_gets_none(both: Tapped) -> None:
    assert post(both.gateway, "/v1/embeddings", {"model": EMBEDDING_SELECTOR, "input": "x"}, CALLER).status == 200
    assert b"authorization" not in both.tap.sent().lower()


def test_embeddings_as_numbers_and_as_base64_say_the_same(both: Tapped, embedder: Server) -> None:
    asked = {"model": EMBEDDING_SELECTOR, "input": ["def read", "import os"]}
    numbers = post(both.gateway, "/v1/embeddings", asked, CALLER)
    directly = post(embedder, "/v1/embeddings", {**asked, "model": EMBEDDING_MODEL})
    assert masked(numbers.body) == masked(directly.body)
    encoded = post(both.gateway, "/v1/embeddings", {**asked, "encoding_format": "base64"}, CALLER)
    for plain, packed in zip(numbers.json()["data"], encoded.json()["data"], strict=True):
        floats = [value for (value,) in struct.iter_unpack("<f", base64.b64decode(packed["embedding"]))]
        assert floats == pytest.approx(plain["embedding"], abs=1e-6)


def test_a_response_header_of_a_hundred_kilobytes_comes_through(both: Tapped, monkeypatch: pytest.MonkeyPatch) -> None:
    # vLLM describes every vector of a binary answer in one header, which grows by a hundred bytes per input.
    monkeypatch.setattr(http.client, "_MAXLINE", 1 << 20)
    asked = {"model": EMBEDDING_SELECTOR, "input": ["x"] * 900, "encoding_format": "bytes"}
    answer = post(both.gateway, "/v1/embeddings", asked, CALLER)
    assert answer.status == 200
    metadata = answer.header("metadata") or ""
    assert len(metadata) > 65536
    assert metadata.encode() in both.tap.received()
    assert answer.body == both.tap.received_body()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/score", {"text_1": "def read", "text_2": ["def write", "import os"]}),
        ("/score", {"text_1": "def read", "text_2": ["def write", "import os"]}),
        ("/v1/rerank", {"query": "def read", "documents": ["def write", "import os"]}),
        ("/v2/rerank", {"query": "def read", "documents": ["def write", "import os"]}),
        ("/rerank", {"query": "def read", "documents": ["def write", "import os"]}),
        ("/pooling", {"input": "def read"}),
        ("/v2/embed", {"texts": ["def read"], "embedding_types": ["float"]}),
    ],
)
def test_every_route_of_an_embedding_model_answers(
    both: Tapped, embedder: Server, path: str, fields: dict[str, Any]
) -> None:
    through = post(both.gateway, path, {"model": EMBEDDING_SELECTOR, **fields}, CALLER)
    directly = post(embedder, path, {"model": EMBEDDING_MODEL, **fields})
    assert directly.status == 200
    assert through.status == 200
    assert through.body == both.tap.received_body()
    assert masked(through.body) == masked(directly.body)
    below = post(both.gateway, f"/p/vllm-embed{path}", {"model": EMBEDDING_MODEL, **fields}, CALLER)
    assert masked(below.body) == masked(directly.body)


def test_the_writing_instance_is_untouched_by_the_other(both: Tapped) -> None:
    question = QUESTIONS["chat"]
    answer = post(both.gateway, question.path, question.body(f"vllm/{MODEL}", 4, stream=True), CALLER)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert both.tap.sent() == b""
