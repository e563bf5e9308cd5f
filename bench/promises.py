"""What each proxy does to bytes, broken answers, clients that leave and failed requests: `python -m bench.promises`.

Starts every peer that is installed, as `bench` does, in front of an upstream that records what arrives and breaks off
when it is told to, and prints a table in Markdown. Measures no cost. docs/comparison.md shows what came of it.
"""

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench import install, payloads
from bench.peers import PEERS, Peer, Running, spawn
from bench.process import Fleet, StartError, wait_until

LIMIT_S = 20.0
# How long something that should not come is waited for.
QUIET_S = 3.0
# vLLM and Python write JSON in several ways; a proxy that parses and writes it anew shows itself by each of these.
_BODY = (
    b'{ "model" : "%b",\n"messages":[{"role":"user","content":"caf\\u00e9 \xf0\x9f\x98\x80"}],"temperature":1.0,'
    b'"vllm_xargs":{"unknown":1e2},"seed":7%b}'
)
_ANSWER = (
    b'{ "id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"m/x","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"caf\\u00e9"},"logprobs":null,"finish_reason":"stop","stop_reason":null}],'
    b'"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1},"kv_transfer_params":null, "new_field":1.0}'
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"m/x", '
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"new_field":1.0}\n\n'
)
_COMMENT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"


class Recorder:
    """The upstream: a thread for each connection; `script` says what becomes of a chat request."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.gone: list[float] = []  # when a connection was closed by the proxy, while an answer was due
        self.script = "answer"
        self.asked = threading.Event()
        self.left = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self, script: str) -> None:
        self.script = script
        self.bodies, self.gone = [], []
        self.asked.clear()
        self.left.clear()

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as reader:
                while (head := _head(reader)) is not None:
                    body = _body(reader, head)
                    if b"/chat/completions" not in head[0]:
                        connection.sendall(_about(head[0]))
                        continue
                    self.bodies.append(body)
                    self.asked.set()
                    if not self._answer(connection):
                        return
        except (OSError, ValueError):
            pass

    def _answer(self, connection: socket.socket) -> bool:
        """Whether the connection is to be used again."""
        script = self.script
        stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        if script == "answer":
            connection.sendall(_whole(_ANSWER))
        elif script == "answer once":
            connection.sendall(_whole(_ANSWER).replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
            return False
        elif script == "error":
            body = b'{"error":{"message":"engine dead","type":"InternalServerError","code":500}}'
            connection.sendall(_whole(body, b"500 Internal Server Error"))
        elif script == "stream":
            connection.sendall(stream + b"".join(map(_chunk, (_EVENT, _COMMENT, _EVENT, _DONE))) + b"0\r\n\r\n")
        elif script == "break":
            connection.sendall(stream + _chunk(_EVENT) + _chunk(_EVENT))
            time.sleep(0.2)  # the proxy has them before it sees the end
            return False
        elif script == "vanish":
            return False
        else:
            if script == "endless":
                connection.sendall(stream + _chunk(_EVENT))
            connection.settimeout(LIMIT_S)
            try:
                while connection.recv(65536):
                    pass
            except TimeoutError:
                return False
            except OSError:
                pass
            self.gone.append(time.monotonic())
            self.left.set()
            return False
        return True


def _head(reader: object) -> list[bytes] | None:
    lines: list[bytes] = []
    while line := reader.readline():  # type: ignore[attr-defined]
        if line == b"\r\n":
            return lines
        lines.append(line)
    return None


def _body(reader: object, head: list[bytes]) -> bytes:
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head[1:])}
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        pieces: list[bytes] = []
        while size := int(reader.readline(), 16):  # type: ignore[attr-defined]
            pieces.append(reader.read(size))  # type: ignore[attr-defined]
            reader.readline()  # type: ignore[attr-defined]
        reader.readline()  # type: ignore[attr-defined]
        return b"".join(pieces)
    return bytes(reader.read(int(fields.get(b"content-length", b"0"))))  # type: ignore[attr-defined]


def _whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def _about(request_line: bytes) -> bytes:
    """What a vLLM says of itself."""
    if b"/models" in request_line:
        models = {"object": "list", "data": [{"id": "m/x", "object": "model", "owned_by": "vllm", "root": "m/x"}]}
        return _whole(json.dumps(models).encode())
    if b"/health" in request_line:
        return _whole(b"")
    return _whole(b'{"detail":"Not Found"}', b"404 Not Found")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Asker:
    """A client of one proxy: raw sockets, so that what arrives is what was sent."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def body(self, *, stream: bool = False) -> bytes:
        return _BODY % (self._running.model.encode(), b',"stream":true' if stream else b"")

    def ask(self, body: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._running.port), LIMIT_S)
        head = (
            f"POST {payloads.CHAT_PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {payloads.KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        return connection

    def read(self, connection: socket.socket) -> tuple[int, bytes, bool]:
        """Status, body and whether the answer ended as its head had said it would."""
        with connection, connection.makefile("rb") as reader:
            try:
                head = _head(reader)
                if not head:
                    return 0, b"", False
                status = int(head[0].split()[1])
                chunked = any(b"chunked" in line.lower() and line.lower().startswith(b"transfer") for line in head)
                if not chunked:
                    return status, _body(reader, head), True
                pieces: list[bytes] = []
                while line := reader.readline():
                    if not (size := int(line, 16)):
                        return status, b"".join(pieces), True
                    pieces.append(reader.read(size))
                    reader.readline()
                return status, b"".join(pieces), False
            except OSError:
                return 0, b"", False


def _request_bytes(upstream: Recorder, client: Asker, peer: Peer) -> str:
    upstream.reset("answer")
    body = client.body()
    client.read(client.ask(body))
    expected = body.replace(peer.model.encode(), peer.model.encode()[peer.removed_bytes :], 1)
    return "same" if upstream.bodies == [expected] else "rewritten"


def _answer_bytes(upstream: Recorder, client: Asker, peer: Peer) -> str:
    upstream.reset("answer")
    _, body, _ = client.read(client.ask(client.body()))
    return "same" if body == _ANSWER else "rewritten"


def _stream_bytes(upstream: Recorder, client: Asker, peer: Peer) -> str:
    upstream.reset("stream")
    _, body, ended = client.read(client.ask(client.body(stream=True)))
    return "same" if ended and body == _EVENT + _COMMENT + _EVENT + _DONE else "rewritten"


def _broken_stream(upstream: Recorder, client: Asker, peer: Peer) -> str:
    upstream.reset("break")
    _, body, ended = client.read(client.ask(client.body(stream=True)))
    told = b'"error"' in body
    if ended:
        return (
            "ends as if complete" + (", after an error event" if told else "") + (", `[DONE]`" if _DONE in body else "")
        )
    return "error event, then cut" if told else "cut"


def _leaving(script: str) -> Callable[[Recorder, Asker, Peer], str]:
    def measure(upstream: Recorder, client: Asker, peer: Peer) -> str:
        upstream.reset(script)
        connection = client.ask(client.body(stream=script == "endless"))
        if not upstream.asked.wait(LIMIT_S):
            return "not asked"
        if script == "endless":
            connection.recv(65536)
        time.sleep(0.2)  # it runs, and nothing is under way
        began = time.monotonic()
        connection.close()
        if not upstream.left.wait(LIMIT_S):
            return f"not within {LIMIT_S:g} s"
        took_ms = (upstream.gone[-1] - began) * 1000
        return "at once" if took_ms < 50 else f"after {took_ms:.0f} ms"

    return measure


def _sent_again(script: str, before: str) -> Callable[[Recorder, Asker, Peer], str]:
    def measure(upstream: Recorder, client: Asker, peer: Peer) -> str:
        upstream.reset(before)
        client.read(client.ask(client.body()))  # after which a connection is kept, or none is
        time.sleep(0.2)
        upstream.reset(script)
        connection = client.ask(client.body())
        connection.settimeout(LIMIT_S)
        status, _, _ = client.read(connection)
        time.sleep(QUIET_S)
        more = len(upstream.bodies) - 1
        return f"{'no' if more == 0 else f'{more} more'}, {status or 'no answer'}"

    return measure


QUESTIONS: dict[str, Callable[[Recorder, Asker, Peer], str]] = {
    "request body reaches vLLM": _request_bytes,
    "answer reaches the client": _answer_bytes,
    "stream reaches the client": _stream_bytes,
    "a stream that vLLM breaks off": _broken_stream,
    "client leaves a stream that is silent: vLLM is told": _leaving("endless"),
    "client leaves before the answer: vLLM is told": _leaving("silent"),
    "a new connection ends without an answer: sent again": _sent_again("vanish", "answer once"),
    "a kept connection ends without an answer: sent again": _sent_again("vanish", "answer"),
    "vLLM answers 500: sent again": _sent_again("error", "answer"),
}


def examine(peer: Peer, program: str, fleet: Fleet) -> dict[str, str]:
    """What `peer` does, by question. Raises StartError."""
    upstream = Recorder()
    running = spawn(peer, program, upstream.port, fleet)
    client = Asker(running)
    assert running.child is not None

    def answers() -> bool:
        upstream.reset("answer")
        try:
            return client.read(client.ask(client.body()))[0] == 200
        except OSError:
            return False

    wait_until(answers, running.child, peer.start_limit_s, 0.2)
    found = {}
    for question, ask in QUESTIONS.items():
        wait_until(answers, running.child, 60.0, 0.5)
        found[question] = ask(upstream, client, peer)
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.promises")
    parser.add_argument(
        "--installed", type=Path, default=Path("bench-results/peers"), help="where bench --install puts peers"
    )
    chosen = parser.parse_args()
    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as place, Fleet(Path(place)) as fleet:
        for peer in PEERS:
            if (program := peer.find(chosen.installed)) is None:
                continue
            title = f"{peer.name} {install.version(peer, program)}"
            try:
                table[title] = examine(peer, program, fleet)
            except (StartError, OSError) as error:
                print(f"{title}: {error}", file=sys.stderr)
    print("| |", " | ".join(table), "|")
    print("|---" * (len(table) + 1) + "|")
    for question in QUESTIONS:
        print(f"| {question} |", " | ".join(found[question] for found in table.values()), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
