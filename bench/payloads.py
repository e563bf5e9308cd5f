"""The request bodies that are measured, and what upstream.py answers to them.

Decides bytes only. Pacing of a stream travels in standard fields of the body (`max_tokens`, `user`), because some
gateways rebuild the request from the fields they know and would lose a header of ours.
"""

import base64
import json
import random
from collections.abc import Callable

KEY = "change-me"
CHAT_PATH = "/v1/chat/completions"

ANSWER = (
    b'{"id":"chatcmpl-5f1c9a","object":"chat.completion","created":1760000000,"model":"m/x","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello! How can I help you today?"},"logprobs":null,'
    b'"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":%d,"total_tokens":%d,'
    b'"completion_tokens":9,"prompt_tokens_details":null},"prompt_logprobs":null}'
)
EVENT = (
    b'data: {"id":"chatcmpl-5f1c9a","object":"chat.completion.chunk","created":1760000000,"model":"m/x",'
    b'"choices":[{"index":0,"delta":{"content":" token%05d"},"logprobs":null,"finish_reason":null}],"t":%019d}\n\n'
)
# What every event holds, also when a proxy writes it anew.
MARK = b'" token'
STAMP = b'"t":'
STAMP_DIGITS = 19
DONE = b"data: [DONE]\n\n"


def stream_bytes(events: int) -> int:
    """Length of a whole stream's body: every event has the same length, so one lost byte shows."""
    return len(EVENT % (0, 0)) * events + len(DONE)


def _chat(model: str, messages: list[object], *, model_last: bool = False, **extra: object) -> bytes:
    fields: dict[str, object] = {"messages": messages, **extra}
    ordered = {**fields, "model": model} if model_last else {"model": model, **fields}
    return json.dumps(ordered, separators=(",", ":")).encode()


def small(model: str) -> bytes:
    """A short chat, the most common request."""
    return _chat(
        model,
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello, who are you?"},
        ],
    )


# Stands in a text where conversations differ.
CONVERSATION = "conversation"


def conversation(model: str, turns: int) -> bytes:
    """A chat that has gone on for so many turns of about a kilobyte each."""
    messages: list[object] = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": f"Hello, this is {CONVERSATION}: who are you?"},
    ]
    for number in range(turns):
        messages.append({"role": ("assistant", "user")[number % 2], "content": "What was said in this turn. " * 39})
    return _chat(model, messages)


def prompt(model: str, *, model_last: bool = False) -> bytes:
    """A 100 KB prompt: a document to summarise, quotes and newlines included."""
    line = 'She said: "the gateway moves bytes, it does not own them."\n'
    return _chat(model, [{"role": "user", "content": line * (100_000 // len(line))}], model_last=model_last)


def prompt_model_last(model: str) -> bytes:
    """The same with its model behind the messages, where OpenAI's SDKs write it."""
    return prompt(model, model_last=True)


def _image(model: str, *, model_last: bool) -> bytes:
    data = base64.b64encode(random.Random(5).randbytes(5_000_000 * 3 // 4)).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [{"type": "text", "text": "What is in this picture?"}, picture]
    return _chat(model, [{"role": "user", "content": content}], model_last=model_last)


def image(model: str) -> bytes:
    """5 MB multimodal, `model` first: the selector is known from the first bytes."""
    return _image(model, model_last=False)


def image_model_last(model: str) -> bytes:
    """5 MB multimodal, `messages` before `model`: a gateway that routes by model has to hold or scan all of it."""
    return _image(model, model_last=True)


BODIES: dict[str, Callable[[str], bytes]] = {
    "chat 0.1 KB": small,
    "prompt 100 KB": prompt,
    "prompt 100 KB, model last": prompt_model_last,
    "image 5 MB, model first": image,
    "image 5 MB, model last": image_model_last,
}


def stream(model: str, events: int, gap_ms: float) -> bytes:
    """A streaming chat that asks upstream.py for `events` events, `gap_ms` apart."""
    message = {"role": "user", "content": "Tell me a story."}
    return _chat(model, [message], stream=True, max_tokens=events, user=f"gap-ms={gap_ms:g}")


def headers(length: int | None) -> list[tuple[str, str]]:
    """What a client library sends with a body of `length` bytes; None means chunked."""
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    return [
        ("Host", "127.0.0.1"),
        ("Accept", "*/*"),
        ("Authorization", f"Bearer {KEY}"),
        ("Content-Type", "application/json"),
        framing,
    ]


def request(body: bytes, *, chunked: bool = False) -> bytes:
    """The whole chat request as it goes over the wire; `chunked` frames it in 64 KiB chunks."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers(None if chunked else len(body)))
    start = f"POST {CHAT_PATH} HTTP/1.1\r\n{head}\r\n".encode()
    if not chunked:
        return start + body
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    return start + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
