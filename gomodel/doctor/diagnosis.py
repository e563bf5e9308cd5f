"""Which rule judges what was seen at each place, and whose fault a finding is. Pure.

A finding belongs to the first place, from the engine outwards, that has it: what stands behind is not accused of what a
hop nearer to the engine has done.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import compared, reached, timed
from .findings import Finding, Outcome, Row, State
from .observed import Observed
from .remedies import product, remedy

Rule = Callable[[Observed, Observed], Outcome]

_RULES: tuple[tuple[str, str, Rule, Callable[[Observed], str]], ...] = (
    ("answer", "answer as one body", compared.answer, lambda seen: compared.answer(seen, seen).brief),
    ("stream", "answer as events", compared.stream, lambda seen: compared.stream(seen, seen).brief),
    ("headers", "response headers", compared.headers, lambda seen: f"{len(seen.answers[0].fields)} fields"),
    ("errors", "error bodies", compared.errors, lambda seen: compared.errors(seen, seen).brief),
    ("fields", "request fields", compared.fields, lambda seen: compared.fields(seen, seen).brief),
    ("first_byte", "first event", timed.first_byte, lambda seen: timed.first_byte(seen, seen).brief),
    ("cadence", "cadence of events", timed.steady, lambda seen: timed.steady(seen, seen).brief),
    ("cancel", "work of who left ends", timed.left, lambda seen: timed.in_words(seen.left)),
    ("large", "large body", reached.large, lambda seen: reached.large(seen, seen).brief),
    ("chunked", "body in chunks", reached.chunked, lambda seen: reached.chunked(seen, seen).brief),
    ("keep_alive", "connection kept", reached.kept, lambda seen: reached.kept(seen, seen).brief),
    ("websocket", "WebSocket", reached.websocket, lambda seen: reached.websocket(seen, seen).brief),
    ("idle", "long silence", timed.silence, lambda seen: timed.silence(seen, seen).brief),
)


class Fault(NamedTuple):
    """A finding, where it begins (0: at the gateway nearest to the engine), and what to change there."""

    check: str
    title: str
    at: int
    finding: Finding
    remedy: str


class Diagnosis(NamedTuple):
    """Of one instance. `products`: what stands at each gateway, "" where nothing tells."""

    instance: str
    version: str
    direct: str
    places: tuple[str, ...]
    products: tuple[str, ...]
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]

    @property
    def well(self) -> bool:
        """Whether nothing is broken; a warning breaks nothing."""
        return all(fault.finding.state is not State.BROKEN for fault in self.faults)


def diagnose(instance: str, version: str, seen: Sequence[Observed]) -> Diagnosis:
    """`version`: of its vLLM, "" for unknown. `seen`: directly, then at each gateway, nearest to the engine first."""
    direct, *gateways = seen
    products = tuple(product(each.answers[0], seen[at].answers[0]) for at, each in enumerate(gateways))
    rows, faults = [], []
    for name, title, rule, directly in _RULES:
        outcomes = tuple(rule(direct, each) for each in gateways)
        rows.append(Row(name, title, directly(direct), outcomes))
        known: set[str] = set()
        for at, each in enumerate(outcomes):
            fresh = [finding for finding in each.findings if finding.kind not in known]
            known |= {finding.kind for finding in fresh}
            faults += [Fault(name, title, at, finding, remedy(finding.kind, products[at])) for finding in fresh]
    faults.sort(key=lambda fault: (fault.finding.state is not State.BROKEN, fault.at))
    places = tuple(each.shown for each in gateways)
    return Diagnosis(instance, version, direct.shown, places, products, tuple(rows), tuple(faults))
