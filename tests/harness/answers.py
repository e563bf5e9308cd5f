"""What instances answer to gomodel's own small requests, without a socket: aioresponses in place of the sessions.

For tables of statuses, bodies and exceptions at what asks through a ClientSession: model lists, `--check`, the search
for a stored response. Probes ask through a channel, as requests do; those, and whatever is about bytes, framing, time
or connections, need the scripted upstream.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiohttp import ClientResponse
from aioresponses import aioresponses

# A body is fed whole to a reader that cannot be paused.
BODY_LIMIT_BYTES = 1 << 16


class Question(NamedTuple):
    """One request that was made, with all that its caller said of it."""

    method: str
    url: str
    options: dict[str, Any]


class _Response(ClientResponse):
    """aioresponses 0.7.9 passes no `stream_writer`, which aiohttp 3.14 asks how much was sent."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0), **options})


class Answers:
    """Answers by URL. A question that none was made for fails as if nothing listened there."""

    def __init__(self, mock: Any) -> None:
        self._mock = mock

    def on(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        exception: BaseException | None = None,
    ) -> None:
        """The next such question is answered so, or fails with `exception`; several calls answer one after another."""
        assert len(body) < BODY_LIMIT_BYTES
        fields = dict(headers or {})
        self._mock.add(
            url, method, status=status, body=body, headers=fields, exception=exception, response_class=_Response
        )

    def on_get(self, url: str, *answer: Any, **more: Any) -> None:
        """The next GET of `url` is answered so; see `on`."""
        self.on("GET", url, *answer, **more)

    @property
    def questions(self) -> list[Question]:
        """What was asked, by URL and then in order."""
        return [
            Question(method, str(url), call.kwargs)
            for (method, url), calls in self._mock.requests.items()
            for call in calls
        ]


@contextmanager
def answers() -> Iterator[Answers]:
    """Within this no ClientSession opens a connection."""
    with aioresponses() as mock:
        yield Answers(mock)
