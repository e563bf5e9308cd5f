"""The report: a table, a verdict that names the place and the remedy, and the same as JSON.

Decides widths, colours and words. `Redaction` takes keys and the credentials of URLs out of what it says.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Sequence

from ..config.settings import Secret
from ..host.terminal import coloured
from ..version import VERSION
from .diagnosis import Diagnosis, Fault
from .findings import State

WIDTH = 100
_TITLE, _DIRECT = 23, 20
_CREDENTIALS = re.compile(r"(\w+://)[^/\s@]+@")
_MOODS = {State.OK: "good", State.WARNING: "doubtful", State.BROKEN: "bad", State.UNKNOWN: "dim", State.SKIPPED: "dim"}


class Redaction:
    """Takes keys, and credentials in URLs, out of text."""

    def __init__(self, keys: Iterable[Secret | None]) -> None:
        self._keys = sorted({key.reveal() for key in keys if key is not None and key.reveal()}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for key in self._keys:
            text = text.replace(key, "***")
        return _CREDENTIALS.sub(r"\1***@", text)


def table(found: Diagnosis, *, colours: bool) -> str:
    """What was seen, and what it means, at most 100 columns wide where there are three gateways or fewer."""
    width = max(12, (WIDTH - _TITLE - _DIRECT) // max(1, len(found.places)) - 1)
    names = [f"[{number}]" for number in range(1, len(found.places) + 1)]
    of = f", vLLM {found.version}" if found.version else ""
    lines = [f"Instance {found.instance}{of}, directly at {found.direct}"]
    for name, place, what in zip(names, found.places, found.products, strict=True):
        lines.append(f"{name} {place}" + (f" ({what})" if what else ""))
    lines += ["", _cell("CHECK", _TITLE) + _cell("DIRECTLY", _DIRECT) + " ".join(_cell(each, width) for each in names)]
    for row in found.rows:
        cells = []
        for each in row.outcomes:
            state = each.state.value
            text = _cell(state if each.brief == state else f"{state:<8} {each.brief}", width)
            cells.append(coloured(text, _MOODS[each.state]) if colours else text)
        lines.append(_cell(row.title, _TITLE) + _cell(row.direct, _DIRECT) + " ".join(cells))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _cell(text: str, width: int) -> str:
    return (text if len(text) < width else text[: width - 3] + "..").ljust(width)


def verdict(found: Diagnosis) -> str:
    """Whether something breaks, where, and what to change there."""
    lines = []
    for fault in found.faults:
        word = "BROKEN" if fault.finding.state is State.BROKEN else "warning"
        lines.append(f"{word}: {fault.title}, {_where(found, fault)}")
        said = [fault.finding.says] + ([f"Change there: {fault.remedy}"] if fault.remedy else [])
        for each in said:
            lines += textwrap.wrap(each, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
    unseen = [row.title for row in found.rows if any(each.state is State.UNKNOWN for each in row.outcomes)]
    if unseen:
        lines += textwrap.wrap(f"Could not be seen: {', '.join(unseen)}.", WIDTH, subsequent_indent="  ")
    grave = [fault for fault in found.faults if fault.finding.state is State.BROKEN]
    if not grave:
        lines.append("Verdict: what works directly works through " + _all(found.places) + ".")
    else:
        for place in sorted({fault.at for fault in grave}):
            titles = list(dict.fromkeys(fault.title for fault in grave if fault.at == place))
            where = _where(found, next(fault for fault in grave if fault.at == place))
            lines += textwrap.wrap(f"Verdict: {where} breaks: {', '.join(titles)}.", WIDTH, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _all(places: Sequence[str]) -> str:
    return " and ".join(places)


def _where(found: Diagnosis, fault: Fault) -> str:
    """The hop: what stands at the place, and what it stands before."""
    what = found.products[fault.at]
    place = f"[{fault.at + 1}] {found.places[fault.at]}" + (f" ({what})" if what else "")
    if fault.at == 0:
        return place
    return f"{place}, not [{fault.at}] behind it"


def as_json(diagnoses: Sequence[Diagnosis]) -> str:
    """All that the table says, for a program."""
    return json.dumps(
        {
            "version": VERSION,
            "well": all(each.well for each in diagnoses),
            "instances": [
                {
                    "instance": each.instance,
                    "vllm": each.version,
                    "direct": each.direct,
                    "through": [
                        {"url": place, "product": what} for place, what in zip(each.places, each.products, strict=True)
                    ],
                    "checks": [
                        {
                            "check": row.name,
                            "direct": row.direct,
                            "through": [{"state": one.state.value.lower(), "brief": one.brief} for one in row.outcomes],
                        }
                        for row in each.rows
                    ],
                    "findings": [
                        {
                            "check": fault.check,
                            "kind": fault.finding.kind,
                            "state": fault.finding.state.value.lower(),
                            "at": each.places[fault.at],
                            "product": each.products[fault.at],
                            "says": fault.finding.says,
                            "remedy": fault.remedy,
                        }
                        for fault in each.faults
                    ],
                }
                for each in diagnoses
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
