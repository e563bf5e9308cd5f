"""Rules: what of an answer, a stream, header fields, errors and a request's fields was changed on the way. Pure.

Each takes what was seen directly and what was seen through a gateway. What the instance itself did not do well accuses
nobody. Where the direct runs differ among themselves, no difference accuses a gateway.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..http1.hop_by_hop import HOP_BY_HOP
from .events import Stream, cut
from .exchange import Exchange
from .findings import Finding, Outcome, broken, outcome, unknown, warning
from .observed import Observed
from .shapes import differences, kind, leaves, sampled, shown, spelling, volatile

# A gateway's own, or of one connection.
_NOT_COMPARED = frozenset(name.decode() for name in HOP_BY_HOP) | {"date", "server", "content-length"}
# Nothing depends on it but caches.
_HARMLESS = frozenset({"vary"})
_SHOWN = 3
_DICT = re.compile(r"<dict of (\d+) items>")
_LOCATED = re.compile(r"'loc': '([^']*)'.*?'input': ('[^']*'|[^}]*)")


def answer(direct: Observed, through: Observed) -> Outcome:
    """A chat answered by one JSON body."""
    if not all(each.well for each in direct.answers):
        return unknown(f"directly: {_worst(direct.answers).in_words}")
    bad = _worst(through.answers)
    if not bad.well:
        return outcome(bad.in_words, broken("status", f"A chat gets {bad.in_words}; directly it gets 200."))
    found: list[Finding] = []
    values = [each.json() for each in direct.answers]
    changed = _each_of(differences(values, each.json(), models=_models(direct, through)) for each in through.answers)
    if changed:
        found.append(broken("body", f"The answer is another one: {_some(changed)}."))
    elif {_spelled(each) for each in direct.answers}.isdisjoint(map(_spelled, through.answers)):
        found.append(warning("respelled", "The JSON of answers is parsed and written anew; no field is lost by it."))
    if not changed:
        found += _text(values, [each.json() for each in through.answers])
    found += _framing(direct.answers[0], through.answers[0])
    extra = next((each.extra for each in through.answers if each.extra), b"")
    if extra and not any(each.extra for each in direct.answers):
        found.append(broken("extra_bytes", f"{len(extra)} bytes follow an answer that is complete."))
    return outcome("200", *found)


def _text(direct: Sequence[Any], through: Sequence[Any]) -> list[Finding]:
    said = [sampled(each) for each in direct]
    if any(each != said[0] for each in said) or all(sampled(each) == said[0] for each in through):
        return []
    return [
        warning(
            "text",
            "A greedy answer has another text than directly, twice the same: temperature or seed are changed on the"
            " way, or another replica answered, which computes otherwise.",
        )
    ]


def _framing(direct: Exchange, through: Exchange) -> list[Finding]:
    if through.framing in (direct.framing, "length"):
        return []
    if through.framing == "close":
        how = "ends with its connection: a broken one looks whole"
        return [warning("reframed", f"An answer {how}. Directly it has {_framed(direct)}.")]
    return [warning("reframed", f"An answer comes in chunks; directly it has {_framed(direct)}.")]


def _framed(exchange: Exchange) -> str:
    return {"length": "a Content-Length", "chunked": "chunks with an end"}.get(exchange.framing, exchange.framing)


def stream(direct: Observed, through: Observed) -> Outcome:
    """A chat answered as server-sent events."""
    if not all(each.well for each in direct.streams):
        return unknown(f"directly: {_worst(direct.streams).in_words}")
    bad = _worst(through.streams)
    wanted = [cut(each.decoded()) for each in direct.streams]
    got = [cut(each.decoded()) for each in through.streams]
    brief = f"{len(got[0].spoken)} events"
    if bad.status != 200:
        return outcome(bad.in_words, broken("status", f"A stream gets {bad.in_words}; directly it gets 200."))
    found: list[Finding] = []
    if bad.media_type != direct.streams[0].media_type:
        found.append(broken("stream_type", f"A stream is {bad.header('content-type') or 'of no type'}, no events."))
    elif not bad.well:
        found.append(broken("cut", f"A stream breaks off ({bad.end}) after {len(got[0].spoken)} events."))
    else:
        found += _of_events(wanted, got, _models(direct, through))
    found += _framing(direct.streams[0], bad)
    return outcome(brief, *found)


def _of_events(wanted: Sequence[Stream], got: Sequence[Stream], models: Iterable[str]) -> list[Finding]:
    lost = [
        name
        for name, has in (
            ("data: [DONE]", lambda each: each.done),
            ("the event with the usage", lambda each: each.usage),
            ("the finish reason", lambda each: each.finish),
        )
        if all(map(has, wanted)) and not all(map(has, got))
    ]
    if lost:
        return [broken("last_event", f"A stream lacks {' and '.join(lost)}, which it has directly.")]
    if any(each.rest for each in got) and not any(each.rest for each in wanted):
        return [broken("cut", "A stream ends inside an event.")]
    texts = {each.text for each in wanted}
    if len(texts) == 1 and all(len(each.text) < len(*texts) and _within(each.text, *texts) for each in got):
        return [broken("lost_events", "A part of the text of a stream is lost on the way.")]
    found = []
    changed = _each_of(_event_differences(wanted, each, models) for each in got)
    if changed:
        found.append(broken("events", f"The events are others: {_some(changed)}."))
    else:
        known = {_event_spelling(event.lines, event.delimiter) for each in wanted for event in each.spoken}
        fresh = [_event_spelling(event.lines, event.delimiter) not in known for event in got[0].spoken]
        if sum(fresh) > len(fresh) / 2:
            found.append(warning("respelled", "The events are parsed and written anew; no field is lost by it."))
    return found


def _within(part: str, whole: str) -> bool:
    """Whether `part` is `whole` with something left out."""
    letters = iter(whole)
    return all(letter in letters for letter in part)


def _event_differences(wanted: Sequence[Stream], got: Stream, models: Iterable[str]) -> list[str]:
    """What the events of one stream, taken together, have less, more, or otherwise."""
    runs, there = [_paths(each) for each in wanted], _paths(got)
    names = frozenset(models)
    found = [f"{path} is missing" for path in sorted(set.intersection(*map(set, runs)) - set(there))]
    found += [f"{path} was added" for path in sorted(set(there).difference(*runs))]
    for path in sorted(set(there).intersection(*runs)):
        values = runs[0][path]
        if any(run[path] != values for run in runs) or volatile(path) or there[path] == values:
            continue
        if path == "model" and there[path] | values <= {shown(name) for name in names}:
            continue
        found.append(f"{path} is {', '.join(sorted(there[path]))} instead of {', '.join(sorted(values))}")
    return found


def _paths(events: Stream) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for chunk in events.chunks:
        for path, value in leaves(chunk).items():
            if value is not None:
                found.setdefault(path, set()).add(kind(value) if volatile(path) else shown(value))
    return found


def _event_spelling(lines: Iterable[str], delimiter: bytes) -> tuple[str, ...]:
    spelled = [name + mark + spelling(value) for name, mark, value in (line.partition(":") for line in lines)]
    return (*spelled, repr(delimiter))


def headers(direct: Observed, through: Observed) -> Outcome:
    """Header fields of responses: what is dropped, changed and added, beyond those of one connection."""
    kinds = (
        ("an answer", direct.answers, through.answers[:1]),
        ("an answer with load metrics", direct.fields, through.fields[:1]),
        ("a stream", direct.streams, through.streams[:1]),
    )
    dropped: dict[str, str] = {}
    added: dict[str, None] = {}
    found = []
    asked = 0
    for what, wanted, (got,) in kinds:
        if not all(each.well for each in wanted) or got.status != 200:
            continue
        asked += 1
        always = set.intersection(*(_names(each) for each in wanted))
        for name in sorted(always - _names(got)):
            dropped.setdefault(name, what)
        added |= dict.fromkeys(sorted(_names(got) - set[str]().union(*(_names(each) for each in wanted))))
        if wanted[0].media_type != got.media_type:
            says = f"{what} is {got.media_type or 'of no type'} instead of {wanted[0].media_type}"
            found.append(broken("dropped_headers", f"The type of {says}."))
    if not asked:
        return unknown("no two answers to compare")
    if grave := [name for name in dropped if name not in _HARMLESS]:
        found.append(broken("dropped_headers", f"Dropped from {dropped[grave[0]]}: {', '.join(grave)}."))
    if light := [name for name in dropped if name in _HARMLESS]:
        found.append(warning("dropped_headers", f"Dropped from {dropped[light[0]]}: {', '.join(light)}."))
    if any(_named_encoding(each) for each in through.streams) and not any(map(_named_encoding, direct.streams)):
        coding = through.streams[0].header("content-encoding")
        found.append(warning("compressed", f"Streams are compressed ({coding}) on the way, event by event at best."))
    return outcome(f"{len(added)} more: {', '.join(added)}" if added else "the same", *found)


def _names(exchange: Exchange) -> set[str]:
    return {name.lower() for name, _ in exchange.fields} - _NOT_COMPARED


def _named_encoding(exchange: Exchange) -> str:
    return exchange.header("content-encoding")


def errors(direct: Observed, through: Observed) -> Outcome:
    """Refusals of the engine's: their status and every byte of their body."""
    found = []
    statuses = []
    models = _models(direct, through)
    for wanted, got in ((direct.refused, through.refused), (direct.unknown, through.unknown)):
        if wanted is None or got is None or wanted.end != "complete" or not 400 <= wanted.status < 500:
            continue
        statuses.append(got.in_words)
        if got.status != wanted.status or got.end != "complete":
            found.append(broken("error_status", f"A refusal with {wanted.status} becomes {got.in_words}."))
        elif _masked(got, models) != _masked(wanted, models):
            values = wanted.json(), got.json()
            changed = differences([values[0]], values[1]) if None not in values else ["it is no JSON of the engine's"]
            if changed:
                found.append(broken("error_body", f"The body of a {wanted.status} is another one: {_some(changed)}."))
            else:
                says = f"The body of a {wanted.status} is parsed and written anew; no field is lost by it."
                found.append(warning("respelled", says))
    return outcome(", ".join(statuses), *found) if statuses else unknown("the instance refuses nothing")


def _masked(exchange: Exchange, models: Iterable[str]) -> bytes:
    body = exchange.body
    for name in sorted(models, key=len, reverse=True):
        body = body.replace(name.encode(), b"MODEL")
    return body


def fields(direct: Observed, through: Observed) -> Outcome:
    """Fields of the request: what they ask for must be in the answer, and what vLLM repeats of them in its refusals."""
    found: list[Finding] = []
    seen = []
    wanted, got = direct.fields, through.fields[0]
    if all(each.well for each in wanted):
        if got.well:
            seen.append("effects")
            if changed := differences([each.json() for each in wanted], got.json(), models=_models(direct, through)):
                says = "Fields of a request do not arrive as they were sent; in the answer"
                found.append(broken("fields", f"{says} {_some(changed)}."))
        else:
            says = f"logprobs, top_logprobs and return_token_ids gets {got.in_words}; directly it gets 200."
            found.append(broken("fields", f"A chat with {says}"))
    repeated = _repeated(direct.mistyped)
    if repeated:
        if through.mistyped.status == 200:
            found.append(broken("fields", f"Bad values are mended on the way: {', '.join(repeated)}."))
        elif there := _repeated(through.mistyped):
            seen.append("refusals")
            changed = [f"{at} is {there.get(at, 'missing')} instead of {repeated[at]}" for at in sorted(repeated)]
            changed = [
                each for each, at in zip(changed, sorted(repeated), strict=True) if there.get(at) != repeated[at]
            ]
            changed += [f"{at} was added" for at in sorted(set(there) - set(repeated))]
            if changed:
                found.append(broken("fields", f"The engine repeats other values than were sent: {_some(changed)}."))
    counted, there_counted = _DICT.search(_message(direct.missing)), _DICT.search(_message(through.missing))
    if counted and there_counted and counted[1] != there_counted[1]:
        says = f"{there_counted[1]} fields of a request reach the engine, where {counted[1]} were sent."
        found.append(broken("fields", says))
    if not seen and not found:
        return unknown("nothing shows them")
    return outcome(", ".join(seen) or got.in_words, *found)


def _repeated(exchange: Exchange) -> dict[str, str]:
    """The bad values that vLLM repeats in a refusal, by where they stand."""
    return dict(_LOCATED.findall(_message(exchange)))


def _message(exchange: Exchange) -> str:
    value = exchange.json()
    error = value.get("error") if isinstance(value, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def _models(direct: Observed, through: Observed) -> tuple[str, str]:
    return direct.model, through.model


def _spelled(exchange: Exchange) -> str:
    return spelling(exchange.body.decode("utf-8", "replace"))


def _worst(exchanges: Sequence[Exchange]) -> Exchange:
    return next((each for each in exchanges if not each.well), exchanges[0])


def _each_of(runs: Iterable[list[str]]) -> list[str]:
    """What is said of every run."""
    first, *others = runs
    return [each for each in first if all(each in other for other in others)]


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - _SHOWN
    return "; ".join(sentences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
