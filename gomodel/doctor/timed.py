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
    held = _held(direct, through)
    return outcome(milliseconds(got)) if held else outcome(milliseconds(got), warning("slow", says))


def steady(direct: Observed, through: Observed) -> Outcome:
    """Whether events pass one by one, as they were made."""
    if not through.streams[0].well or not all(each.well for each in direct.streams):
        return unknown("no stream")
    wanted = [_cadence(each) for each in direct.streams]
    got = [_cadence(each) for each in through.streams]
    best = max(got, key=lambda each: each.groups)
    brief = f"{best.groups} of {best.events} apart"
    if not all(each.paced and each.seconds >= 2 * _HELD_S for each in wanted):
        return unknown(f"the engine is too fast: {brief}")
    if not _held(direct, through):
        return outcome(brief)
    longest = wanted[0].interval_s * best.largest
    together = "all in one piece" if best.groups == 1 else f"{best.largest} at a time"
    coding = through.streams[0].header("content-encoding")
    why = f", compressed with {coding}" if coding else ""
    says = f"Events are held back: {best.events} came {together}{why}, the first of them {seconds(longest)} late."
    return outcome(brief, broken("compressed" if coding else "buffered", says))


def _held(direct: Observed, through: Observed) -> bool:
    wanted = [_cadence(each) for each in direct.streams]
    if not all(each.paced for each in wanted):
        return False
    interval = min(each.interval_s for each in wanted)

    def clumped(got: Cadence) -> bool:
        return got.groups < got.events / 3 and got.largest > 2 and interval * got.largest >= _HELD_S

    return all(clumped(_cadence(each)) for each in through.streams)


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
    wanted, got = direct.left, through.left
    if wanted.unknown or got.unknown:
        return unknown(wanted.unknown or got.unknown)
    if wanted.freed_s is None:
        return unknown("not even directly")
    if got.freed_s is None:
        says = f"The engine still works {seconds(got.watched_s)} after the client left;"
        says += f" directly it stops within {seconds(wanted.freed_s)}."
        return outcome("goes on", broken("never_cancels", says))
    return outcome(in_words(got))


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
