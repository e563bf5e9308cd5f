"""Rules: bodies that are large or come in chunks, connections that are kept, WebSockets. Pure."""

from .exchange import SWITCHING, Exchange
from .findings import Outcome, broken, outcome, skipped, unknown, warning
from .observed import Observed


def large(direct: Observed, through: Observed) -> Outcome:
    """A body as large as one with a few images."""
    return _uploaded(direct.large, through.large, "large", "A large body")


def chunked(direct: Observed, through: Observed) -> Outcome:
    """A body whose length is not known before, as of a client that streams it."""
    return _uploaded(direct.chunked, through.chunked, "chunked", "A body in chunks")


def _uploaded(direct: Exchange, through: Exchange, kind: str, what: str) -> Outcome:
    if not direct.well:
        return unknown(f"directly: {direct.in_words}")
    if through.well:
        return outcome("200")
    return outcome(through.in_words, broken(kind, f"{what} gets {through.in_words}; directly it gets 200."))


def kept(direct: Observed, through: Observed) -> Outcome:
    """A second request on the connection of the first."""
    first = through.answers[0]
    if first.end != "complete":
        return unknown("no answer")
    if not _stays(through):
        if _stays(direct):
            return outcome("closed", warning("closed", "Its connection is closed after each answer."))
        return outcome("closed")
    if through.second.well:
        return outcome("kept")
    if _stays(direct) and not direct.second.well:
        return unknown(f"directly: {direct.second.in_words}")
    says = f"A second request on a kept connection gets {through.second.in_words}."
    return outcome(through.second.in_words, broken("second_request", says))


def _stays(seen: Observed) -> bool:
    """Whether the connection of the first answer was there for a second request, which was sent then."""
    return seen.answers[0].kept and seen.second.end != ""


def websocket(direct: Observed, through: Observed) -> Outcome:
    """An upgrade of /v1/realtime, and the first message of the engine's."""
    wanted, got = direct.websocket, through.websocket
    if wanted.status != SWITCHING:
        return skipped("none there")
    if got.status != SWITCHING:
        says = f"A WebSocket is not opened: {got.in_words}; directly it is."
        return outcome(got.in_words, broken("websocket", says))
    if wanted.raw_body and not got.raw_body:
        return outcome("101, silent", broken("websocket", "A WebSocket opens, and the engine's first message is lost."))
    return outcome("101")
