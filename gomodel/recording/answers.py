"""Which recorded exchange answers a request: one of the same method, target and body, in the order they came. Pure.

Decides what is asked for most alike, and what to say where nothing fits.
"""

import hashlib
import json
from collections.abc import Iterable

from .credentials import target_without_credentials
from .lines import End, Recorded

_Key = tuple[str, str, bytes]


class Answers:
    """`any_body`: a request whose body is not there is answered by what was recorded for its method and target."""

    def __init__(self, exchanges: Iterable[Recorded], *, any_body: bool = False) -> None:
        self._any_body = any_body
        self._shelves: dict[_Key, list[Recorded]] = {}
        self._turns: dict[_Key, int] = {}
        self._models: dict[str, None] = {}
        self.size = 0
        for each in exchanges:
            if not each.replayable:
                continue
            self.size += 1
            payload = each.payload()
            self._note_model(payload)
            for key in self._keys(each.method, each.target, payload):
                self._shelves.setdefault(key, []).append(each)
        for key, shelf in self._shelves.items():
            # What a client broke off is not all that the server would have said.
            self._shelves[key] = [each for each in shelf if each.end is not End.CLIENT_LEFT] or shelf

    def find(self, method: str, target: str, payload: bytes) -> Recorded | None:
        """The next one in turn, from the first again behind the last; None where nothing is like it."""
        for key in self._keys(method, target, payload):
            if shelf := self._shelves.get(key):
                turn = self._turns.get(key, 0)
                self._turns[key] = turn + 1
                return shelf[turn % len(shelf)]
        return None

    @property
    def models(self) -> bytes:
        """What a list of models would say: those that recorded requests name."""
        return _json({"object": "list", "data": [{"id": name, "object": "model"} for name in self._models]})

    @property
    def absent(self) -> bytes:
        """The body of an answer for what was not recorded."""
        alike = "its method, path and query" if self._any_body else "its method, path, query and body, to the byte"
        more = "" if self._any_body else " --any-body answers whatever the body."
        message = f"This request is not in the recording: none is like it in {alike}.{more}"
        return _json({"error": {"message": message, "type": "NotFoundError", "param": None, "code": 404}})

    def _keys(self, method: str, target: str, payload: bytes) -> list[_Key]:
        """What a request is looked for by, the nearest first."""
        target = target_without_credentials(target)
        exact = method, target, hashlib.sha256(payload).digest()
        return [exact, (method, target, b"")] if self._any_body else [exact]

    def _note_model(self, payload: bytes) -> None:
        try:
            name = json.loads(payload)["model"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if isinstance(name, str):
            self._models[name] = None


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
