"""The one frame of a WebSocket that gomodel may touch: the event in which a realtime client names its model.

vLLM reads the model of `/v1/realtime` from the first `session.update` event, not from the URL, so a selector there has
its instance cut off like one in a body (contract section 5). Pure; every other frame passes bit for bit. Frames of the
client are masked (RFC 6455 5.3); the shortened one keeps its key. What cannot be read passes as it is, and vLLM judges
it: a compressed event (`relay.realtime` keeps a session that needs the cut from agreeing on compression), one in
fragments, one longer than LIMIT_BYTES, one behind more tiny frames than any client sends before it: each costs a look,
and one client must not take the time for it from the others.
"""

import json
from collections.abc import Callable

from ..errors import ClientError
from .json_body import JsonScan

_TEXT, _FIN, _RESERVED, _OPCODE = 0x1, 0x80, 0x70, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
# A session.update is small; what is longer is audio, and passes without being held.
LIMIT_BYTES = 1 << 16
# Pings may come before it, and audio, of which a frame is never as small.
TINY_FRAMES_LIMIT, TINY_BYTES = 256, 1024
# Of events that look like one so many bytes are parsed.
PARSED_LIMIT_BYTES = LIMIT_BYTES


class SessionUpdate:
    """Fed what the client sends; returns what goes on. `done` when the rest needs no look."""

    __slots__ = ("_frames", "_held", "_instance", "_parsed", "_passing", "_renamed", "done")

    def __init__(self, instance: str, renamed: Callable[[str], str | None] | None = None) -> None:
        """`instance`: the name whose prefix is cut. `renamed`: the model that an alias stands for, None for another."""
        self._instance = instance
        self._renamed = renamed
        self._held = b""
        self._passing = 0  # bytes still to come of a frame that is too long to be the one
        self._frames = TINY_FRAMES_LIMIT  # that may still be looked at
        self._parsed = PARSED_LIMIT_BYTES  # that may still be parsed
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Whole frames as they complete, the one with the model shortened; long ones as they come."""
        if len(data) < self._passing:
            self._passing -= len(data)
            return data
        held = self._held + data
        start = self._passing
        self._passing = 0
        out = [held[:start]]
        while not self.done:
            size = _frame_bytes(held, start)
            if size is None:
                break
            if not self._frames:
                self.done = True
                break
            if size > LIMIT_BYTES:
                self.done = not _readable(held[start], held[start + 1])
                self._passing = max(0, start + size - len(held))
                out.append(held[start : start + size])
            elif start + size > len(held):
                break
            else:
                out.append(self._look(held[start : start + size]))
            start += size
            self._frames -= size < TINY_BYTES
        if self.done:
            out.append(held[start:])
        self._held = b"" if self.done else held[start:]
        return b"".join(out)

    def _look(self, frame: bytes) -> bytes:
        first = frame[0]
        if first & _OPCODE >= 0x8:
            return frame  # ping, pong, close
        if not _readable(first, frame[1]):
            self.done = True
            return frame
        start = _payload_start(frame)
        key = frame[start - 4 : start]
        text = _mask(frame[start:], key)
        if b"session.update" not in text and b"\\" not in text:
            return frame  # audio, as a rule; parsing it would cost more than passing it
        self._parsed -= len(text)
        if self._parsed < 0:
            self.done = True
            return frame
        scan = JsonScan()
        try:
            event = json.loads(text)
            selector = scan.feed(text)  # for one turn: what takes longer names nothing
            model = self._renamed(selector.value) if selector is not None and self._renamed is not None else None
        except (ValueError, RecursionError, ClientError):
            return frame
        if not isinstance(event, dict) or event.get("type") != "session.update":
            return frame
        self.done = True
        if selector is not None and model is not None:
            text = text[: selector.start] + json.dumps(model)[1:-1].encode() + text[selector.end :]
        elif selector is not None and selector.value.startswith(self._instance + "/"):
            text = text[: selector.start] + text[selector.start + selector.prefix_bytes :]
        else:
            return frame
        return bytes([first]) + _masked_length(len(text)) + key + _mask(text, key)


def _readable(first: int, second: int) -> bool:
    """Whether a frame is one whole message of text; others are not what a realtime client starts with."""
    return first & (_FIN | _RESERVED | _OPCODE) == _FIN | _TEXT and bool(second & _MASKED)


def _frame_bytes(data: bytes, start: int) -> int | None:
    """The size of the frame at `start`, head included; None while its head is incomplete."""
    if len(data) - start < 2:
        return None
    second = data[start + 1]
    length = second & _LENGTH
    extra = 8 if length == 127 else 2 if length == 126 else 0
    if len(data) - start < 2 + extra:
        return None
    if extra:
        length = int.from_bytes(data[start + 2 : start + 2 + extra], "big")
    return 2 + extra + (4 if second & _MASKED else 0) + length


def _payload_start(frame: bytes) -> int:
    length = frame[1] & _LENGTH
    return 2 + (8 if length == 127 else 2 if length == 126 else 0) + 4


def _masked_length(length: int) -> bytes:
    if length < 126:
        return bytes([_MASKED | length])
    if length >= 1 << 16:
        return bytes([_MASKED | 127]) + length.to_bytes(8, "big")
    return bytes([_MASKED | 126]) + length.to_bytes(2, "big")


def _mask(data: bytes, key: bytes) -> bytes:
    """XOR with the repeated key (RFC 6455 5.3), as one big integer."""
    if not data:
        return b""
    pad = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(data), "big")
