"""Asks a server with nothing but http.client, so that what a test compares is what came over the wire.

Decides how answers are compared (what vLLM makes up anew per request is masked) and how an event stream is cut into
events. Does not know which server it talks to.
"""

import contextlib
import http.client
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .processes import Server

# Generous: the machine may be busy. A hang must fail, not hang the suite.
SILENCE_S = 60

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> tuple[int, Any]:
        """Status and code of an error gomodel made itself."""
        return self.status, self.json()["error"]["code"]


def encode(body: object) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def send(
    server: Server, method: str, path: str, body: object = None, headers: Headers | None = None
) -> http.client.HTTPConnection:
    """One request, whole, on a new connection that sends no header of its own but Host and Content-Length."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SILENCE_S)
    connection.putrequest(method, path, skip_accept_encoding=True)
    content = encode(body)
    if content is not None:
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(content)))
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders(content)
    return connection


@contextlib.contextmanager
def streaming(
    server: Server, path: str, body: object, headers: Headers | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The response of a POST, its body unread; the connection is closed on the way out."""
    connection = send(server, "POST", path, body, headers)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def ask(server: Server, method: str, path: str, body: object = None, headers: Headers | None = None) -> Answer:
    """One request and its whole answer. Raises http.client.IncompleteRead when the answer was cut."""
    connection = send(server, method, path, body, headers)
    try:
        response = connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())
    finally:
        connection.close()


def post(server: Server, path: str, body: object, headers: Headers | None = None) -> Answer:
    return ask(server, "POST", path, body, headers)


def get(server: Server, path: str, headers: Headers | None = None) -> Answer:
    return ask(server, "GET", path, None, headers)


def reset(connection: http.client.HTTPConnection) -> None:
    """Leaves with RST in place of FIN, as a client that died or a stateful firewall does."""
    assert connection.sock is not None
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sock.close()
    connection.close()


MADE_UP_PER_REQUEST = [
    (re.compile(rb'"(created|created_at|completed_at)":[0-9.]+'), rb'"\1":0'),
    # The front end in Rust names the limits of a refused number in any order.
    (re.compile(rb"range \[\{[^}]*\}\]"), rb"range [masked]"),
    (re.compile(rb'"(id|item_id)":"([a-z]+)[-_][^"/]+"'), rb'"\1":"\2-masked"'),
]


def masked(body: bytes) -> bytes:
    """The body with times and random ids blanked, everything else to the byte."""
    for pattern, replacement in MADE_UP_PER_REQUEST:
        body = pattern.sub(replacement, body)
    return body


@dataclass(frozen=True)
class Event:
    name: str | None
    data: str

    def json(self) -> Any:
        return json.loads(self.data)


def cut_events(body: bytes) -> list[Event]:
    """The events of a stream framed as vLLM frames it: LF only, one `data:` line each, comments skipped."""
    assert b"\r" not in body
    assert body.endswith(b"\n\n"), f"cut within an event: {body[-80:]!r}"
    events = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        name = lines.pop(0).removeprefix("event: ") if lines[0].startswith("event: ") else None
        (data,) = lines
        assert data.startswith("data: "), data
        events.append(Event(name, data.removeprefix("data: ")))
    return events


def first_event_with(response: http.client.HTTPResponse, needle: bytes) -> bytes:
    """Reads lines until one holds the needle and returns everything read. Fails when the stream ends before."""
    read = b""
    while line := response.readline():
        read += line
        if needle in line:
            return read
    raise AssertionError(f"no {needle!r} in {read!r}")


def requests_running(vllm: Server) -> int:
    """How many requests vLLM's engine works on right now, by its own account."""
    (value,) = re.findall(rb"^vllm:num_requests_running\{[^}]*\} ([0-9.]+)$", get(vllm, "/metrics").body, re.MULTILINE)
    return int(float(value))


def wait_for(condition: Callable[[], bool], limit_s: float = SILENCE_S) -> bool:
    """Whether the condition came true within the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
