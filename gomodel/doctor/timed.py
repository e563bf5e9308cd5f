"""Rules: first byte, cadence, the end of work for who left, silences. Pure.

A gateway is accused of a delay only when each of its runs has it and none of the direct ones: a busy machine delays
either now and then.
"""

from statistics import median

from .events import Cadence, cadence, cut
from .exchange import Exchange
from .findings import Outcome, broken, outcome, skipped, unknown, warning
from .observed import Left, Observed

# A gateway adds milliseconds; a name to look up or a handshake for each request adds this.
_SLOW_S = 0.25
# Events held back for less than this are noticed by nobody.
_HELD_S = 0.03
# By how many times a silence must be longer than is usual directly, and than any direct one.
_MUCH, _MORE = 3, 1.5
# Runs of which one may be spared.
_MANY = 4


def first_byte(direct: Observed, through: Observed) -> Outcome:
    """From the request to the first event, the best of the runs."""
    wanted, got = _first_event_s(direct), _first_event_s(through)
    if got is None:
        return unknown("no event")
    if wanted is None or got - wanted <= _SLOW_S:
        return outcome(milliseconds(got))
    says = f"The first event comes {milliseconds(got - wanted)} later than directly, in the best of all runs."
    # A stream that is held back as a whole begins late, too: `steady` says so.
    held = held_back(direct, through)
    return outcome(milliseconds(got)) if held else outcome(milliseconds(got), warning("slow", says))


def steady(direct: Observed, through: Observed) -> Outcome:
    """Whether events pass one by one, as they were made."""
    if not all(each.well for each in (*direct.streams, *through.streams)):
        return unknown("no stream")
    wanted, got = [_cadence(each) for each in direct.streams], [_cadence(each) for each in through.streams]
    silence_s, usual_s = median(_silences(direct, through)), median(each.silence_s for each in wanted)
    brief = f"every {milliseconds(silence_s)}"
    if min(each.span_s for each in wanted) < 2 * _HELD_S:
        return unknown("too fast to tell")
    if not held_back(direct, through):
        return outcome(brief)
    coding = through.streams[0].header("content-encoding")
    says = f"Events are held back{f' to be compressed ({coding})' if coding else ''}: {got[0].events} come by pieces"
    says += f" {milliseconds(silence_s)} apart; directly there are {milliseconds(usual_s)} between one and the next."
    return outcome(brief, broken("compressed" if coding else "buffered", says))


def doubtful(direct: Observed, through: Observed) -> bool:
    """Whether more runs are to say if events are held back: most silences are long beside the best direct run."""
    wanted = _direct_silences(direct, through)
    return bool(wanted) and median(_silences(direct, through)) >= max(_HELD_S, _MUCH * min(wanted))


def held_back(direct: Observed, through: Observed) -> bool:
    """Whether the streams that passed have longer silences than any direct one, and much longer ones than is usual.

    Of four runs and more one of either may be another way: a machine stands still now and then.
    """
    wanted, got = sorted(_direct_silences(direct, through)), sorted(_silences(direct, through))
    if not wanted:
        return False
    spared = len(wanted) >= _MANY
    worst_s, least_s = wanted[-1 - spared], got[spared]
    return least_s >= max(_HELD_S, _MUCH * median(wanted), _MORE * worst_s)


def _direct_silences(direct: Observed, through: Observed) -> list[float]:
    """Of the direct streams, none where nothing can be told from them."""
    if not all(each.well for each in (*direct.streams, *through.streams)):
        return []
    wanted = [_cadence(each) for each in direct.streams]
    return [each.silence_s for each in wanted] if min(each.span_s for each in wanted) >= 2 * _HELD_S else []


def _silences(direct: Observed, through: Observed) -> list[float]:
    """As Cadence has them, of the streams that passed.

    A stream whose beginning was held back begins late and takes shorter from then on. What it lost so is a silence of
    its own; one that is only late, as with a slow connection, has lost nothing.
    """
    span_s = min(_cadence(each).span_s for each in direct.streams)
    first_s = _first_event_s(direct) or 0.0
    found = []
    for exchange in through.streams:
        each = _cadence(exchange)
        late_s = (_first_s(exchange) or 0.0) - first_s
        lost_s = max(0.0, min(late_s, span_s - each.span_s))
        total_s = each.span_s + lost_s
        found.append((each.silence_s * each.span_s + lost_s * lost_s) / total_s if total_s else 0.0)
    return found


def _cadence(exchange: Exchange) -> Cadence:
    return cadence(cut(exchange.decoded()).spoken)


def _first_s(exchange: Exchange) -> float | None:
    """From the request to the first event."""
    events = cut(exchange.decoded()).spoken
    return events[0].at - exchange.asked_at if exchange.status == 200 and events else None


def _first_event_s(observed: Observed) -> float | None:
    """The best of all runs."""
    return min((at for each in observed.streams if (at := _first_s(each)) is not None), default=None)


def left(direct: Observed, through: Observed) -> Outcome:
    """Whether the engine stops working for a client who left, by its own counters."""
    cases = (
        ("a stream", direct.left, through.left),
        ("an answer as one body", direct.left_whole, through.left_whole),
    )
    seen = [(what, wanted, got) for what, wanted, got in cases if not (wanted.unknown or got.unknown)]
    known = [(what, wanted.freed_s, got) for what, wanted, got in seen if wanted.freed_s is not None]
    if not known:
        reasons = [wanted.unknown or got.unknown for _, wanted, got in cases]
        return unknown(next(filter(None, reasons), "not even directly"))
    found = [
        broken(
            "never_cancels",
            f"The engine still works {seconds(got.watched_s)} after a client left {what};"
            f" directly it stops within {seconds(freed_s)}.",
        )
        for what, freed_s, got in known
        if got.freed_s is None
    ]
    worst = next((got for _, _, got in known if got.freed_s is None), known[0][2])
    return outcome(in_words(worst), *found)


def in_words(one: Left) -> str:
    """For a cell of the table."""
    if one.unknown:
        return one.unknown
    return "goes on" if one.freed_s is None else f"after {seconds(one.freed_s)}"


def silence(direct: Observed, through: Observed) -> Outcome:
    """An answer that takes long and says nothing meanwhile."""
    wanted, got = direct.silence, through.silence
    if wanted is None or got is None:
        return skipped("see --idle")
    if not wanted.well:
        return unknown(f"directly: {wanted.in_words}")
    took = got.ended_at - got.asked_at
    if not got.well:
        says = f"An answer that takes {seconds(wanted.ended_at - wanted.asked_at)} is given up after {seconds(took)}:"
        return outcome(got.in_words, broken("idle", f"{says} {got.in_words}."))
    quiet = got.head_at - got.asked_at
    if quiet < through.silence_s * 0.9:
        return unknown(f"{seconds(quiet)} were passed; the model's context allows no longer one")
    return outcome(f"{seconds(quiet)} passed")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
