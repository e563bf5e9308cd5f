"""Runs one target under atheris: `python -m fuzz selector -max_total_time=60`.

Decides what each parser may answer: its declared errors and nothing else, the same whole as in pieces. The rest of
the command line is libFuzzer's.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import atheris

with atheris.instrument_imports(include=["gomodel"]):
    from gomodel.errors import ClientError
    from gomodel.http1.framing import Chunked, whole_chunk
    from gomodel.http1.repeated_head import repeatable
    from gomodel.http1.request_fields import RequestFields
    from gomodel.http1.response_fields import ResponseFields
    from gomodel.routes.router import Router
    from gomodel.selector.conversation import ConversationScan, named_at_a_look
    from gomodel.selector.form import MultipartScan
    from gomodel.selector.form_headers import boundary
    from gomodel.selector.json_body import JsonScan, usual
    from gomodel.selector.previous_response import PreviousResponse
    from gomodel.selector.realtime_event import SessionUpdate
    from gomodel.selector.usual_opening import MESSAGES

ROUTER = Router(
    base_path="/",
    passthrough=True,
    passthrough_v1_alias=True,
    passthrough_admin=False,
    metrics_path="/metrics",
    metrics_public=False,
)


def fed(scan: Any, piece: bytes) -> Any:
    """What the scan says of a piece once it has had all the turns that it wants; so many end, or it is stuck."""
    found = scan.feed(piece)
    for _ in range(len(piece) + 1):
        if not scan.paused:
            return found
        found = scan.feed(b"")
    raise AssertionError("no end of turns")


def selector(data: bytes) -> None:
    """Whole and in two pieces: one outcome. At one look: the same, or nothing."""
    outcomes = []
    cut = len(data) // 2
    for pieces in ((data,), (data[:cut], data[cut:])):
        scan = JsonScan()
        try:
            found = next(filter(None, (fed(scan, piece) for piece in pieces)), None)
            if found is None:
                scan.finish()
            outcomes.append((found.value, found.start, found.prefix_bytes) if found else None)
        except ClientError as error:
            outcomes.append(type(error).__name__)
    if outcomes[0] != outcomes[1] and "InvalidBody" not in outcomes:  # a second model may stand in bytes not yet there
        raise AssertionError(outcomes)
    with suppress(ClientError):
        whole = usual(data)
        if whole is not None:
            assert outcomes[0] == (whole.value, whole.start, whole.prefix_bytes)
            assert 0 <= whole.prefix_bytes <= len(data) - whole.start


def continuation(data: bytes) -> None:
    """Whole and in small pieces: one id."""
    outcomes = []
    for size in (len(data) or 1, 5):
        previous = PreviousResponse()
        for at in range(0, len(data), size):
            if not previous.done:
                fed(previous, data[at : at + size])
        outcomes.append(previous.id)
    assert outcomes[0] == outcomes[1], outcomes


def conversation(data: bytes) -> None:
    """Never raises; by a look, by the scan, and behind a long member: one name."""
    at = data.find(b"{") + 1
    outcomes = []
    for body in (data, data[:at] + b'"x":"' + b"x" * 3000 + b'",' + data[at:] if data[:at].strip() == b"{" else data):
        scan = ConversationScan(body, MESSAGES)
        scan.feed()
        for _ in range(len(body)):
            if not scan.paused:
                break
            scan.feed()
        assert not scan.paused
        outcomes.append(scan.named)
        glance = named_at_a_look(body, MESSAGES)
        assert glance is None or glance[:2] == scan.named, scan.named
    assert outcomes[0] == outcomes[1], outcomes


def multipart(data: bytes) -> None:
    """The first line is the boundary parameter."""
    line, _, body = data.partition(b"\n")
    with suppress(ClientError):
        scan = MultipartScan(boundary(b"multipart/form-data; boundary=" + line))
        for at in range(0, len(body), 7):
            if fed(scan, body[at : at + 7]) is not None:
                return
        scan.finish()


def targets(data: bytes) -> None:
    """Never raises; what goes upstream starts with a slash and climbs nowhere."""
    route = ROUTER.resolve(data.decode("utf-8", "surrogateescape"))
    if route.refusal is None and route.tail:
        assert route.tail.startswith("/")
        assert "/../" not in route.tail.partition("?")[0]


def headers(data: bytes) -> None:
    """Name and value pairs, as a parser would hand them over."""
    pairs = [line.partition(b":")[::2] for line in data.split(b"\n") if line[:1] not in (b"", b":")]
    with suppress(ClientError):
        RequestFields(pairs, frozenset()).check(http_10=False)
    ResponseFields(pairs)


def frames(data: bytes) -> None:
    """A client's frames come out whole or shortened, never longer."""
    update = SessionUpdate("vllm")
    out = b"".join(update.feed(data[at : at + 5]) for at in range(0, len(data), 5))
    assert len(out) <= len(data)


def framing(data: bytes) -> None:
    """A chunked body, whole and in pieces of three: the same payload and the same end."""
    outcomes = []
    for size in (len(data) or 1, 3):
        body = Chunked()
        payload = b""
        for at in range(0, len(data), size):
            payload += body.feed(data[at : at + size])
            if body.complete or body.broken:
                break
        outcomes.append((payload, body.complete, body.broken))
    assert outcomes[0] == outcomes[1], outcomes
    start = whole_chunk(data)
    if start:
        body = Chunked()
        assert (body.feed(data), body.between) == (data[start:-2], True)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\nX: 1\r\n\r\n"


def repeated(data: bytes) -> None:
    """The first two bytes say where the rest is put into a known head; what is known then differs in digits alone."""
    at, gap, new = data[0] % len(HEAD) if data else 0, data[1] % 8 if len(data) > 1 else 0, data[2:]
    sent = HEAD[:at] + new + HEAD[at + gap :]
    head = repeatable(HEAD, len(HEAD))
    assert head is not None
    start = head.match(sent)
    if start:
        assert sent[:start] == HEAD.replace(b"17", b"%d" % head.length)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (selector, continuation, conversation, multipart, targets, headers, frames, framing, repeated)
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"usage: python -m fuzz {{{','.join(TARGETS)}}} [libFuzzer options]", file=sys.stderr)
        return 2
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
