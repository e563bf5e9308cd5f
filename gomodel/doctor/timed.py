"""Rules: first byte, cadence, the end of work for who left, silences. Pure.

A gateway is accused of a delay only when each of its runs has it and none of the direct ones: a busy machine delays
either now and then.
"""

from .events import Cadence, cadence, cut
from .exchange import Exchange
from .findings import Outcome, broken, outcome, skipped, unknown, warning
from .observed import Left, Observed

# A gateway adds milliseconds; a name to look up or a handshake for each request adds this.
_SLOW_S = 0.25
# Events held back for less than this are noticed by nobody.
_HELD_S = 0.03


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
    wanted, got = _cadences(direct), _cadences(through)
    best = min(got, key=lambda each: each.silence_s)
    whole = max(each.span_s for each in got) < min(each.span_s for each in wanted) / 3
    brief = "all at once" if whole else f"every {milliseconds(best.silence_s)}"
    if min(each.span_s for each in wanted) < 2 * _HELD_S:
        return unknown("too fast to tell")
    if not held_back(direct, through):
        return outcome(brief)
    if whole:
        how = f"in one piece, which directly take {seconds(min(each.span_s for each in wanted))}"
    else:
        how = f"by pieces, every {milliseconds(best.silence_s)}; directly one comes every"
        how += f" {milliseconds(max(each.silence_s for each in wanted))}"
    coding = through.streams[0].header("content-encoding")
    says = f"Events are held back{f' to be compressed ({coding})' if coding else ''}: {best.events} come {how}."
    return outcome(brief, broken("compressed" if coding else "buffered", says))


def held_back(direct: Observed, through: Observed) -> bool:
    """Whether each stream that passed has its events together, or much longer silences than any direct one."""
    if not all(each.well for each in (*direct.streams, *through.streams)):
        return False
    wanted, got = _cadences(direct), _cadences(through)
    span_s = min(each.span_s for each in wanted)
    if span_s < 2 * _HELD_S:
        return False
    if max(each.span_s for each in got) < span_s / 3:
        return True
    silence_s = min(each.silence_s for each in got)
    return silence_s >= _HELD_S and silence_s > 3 * max(each.silence_s for each in wanted)


def _cadences(observed: Observed) -> list[Cadence]:
    return [_cadence(each) for each in observed.streams]


def _cadence(exchange: Exchange) -> Cadence:
    return cadence(cut(exchange.decoded()).spoken)


def _first_event_s(observed: Observed) -> float | None:
    times = []
    for each in observed.streams:
        events = cut(each.decoded()).spoken
        if each.status == 200 and events:
            times.append(events[0].at - each.asked_at)
    return min(times, default=None)


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
        return skipped("not asked: --idle 60")
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
