"""What a reader sees: one table that sums a run up, a table per suite, the same as Markdown and as JSON.

Decides wording and rounding. Knows nothing of how a sample was taken; a refused figure shows as `refused`, with the
reason below the table.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from bench.stats import DIRECT, YARDSTICK, Outcome, Refused, Results, Summary

# A spread above this share of the median says that the machine, not the subject, was measured.
NOISY = 0.25
MISSING = "-"

# Suites whose cases are one axis: a row per peer, a column per case.
_SWEEPS = {
    "connections": ("CPU per request over keep-alive connections", "us/request"),
    "streams": ("CPU per event over open streams, 10,000 events/s in all", "us/event"),
    "bodies": ("CPU per request over bodies, 4 connections", "us/request"),
}
_LISTS = {
    "json": "JSON requests",
    "sse": "SSE events",
    "latency": "Latency",
    "memory": "Memory, resident in the whole tree",
    "start": "Start",
    "workers": "Workers",
    "recording": "A recording, its requests at their times",
    "fleet": "Conversations over several servers with prefix caches",
    "keys": "Keys, limits and homes of conversations, gomodel beside itself",
}
# suite, case, metric, heading, whether the ratio to the yardstick follows
_OVERVIEW = (
    ("json", "chat, 32 connections", "cpu", "us/request", True),
    ("sse", "200 streams", "cpu", "us/event", True),
    ("latency", "one connection", "added p50", "added p50 us", False),
    ("latency", "one connection", "added p99", "added p99 us", False),
    ("memory", "mixed load", "idle", "idle MiB", False),
    ("memory", "mixed load", "after load 2", "loaded MiB", False),
    ("start", "cold start", "first 200", "start ms", False),
)


def figure(value: float) -> str:
    """A number with three significant digits at least, and no false precision."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


@dataclass(slots=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cell(self, outcome: Outcome, *, label: str, suffix: str = "", spread: bool = False) -> str:
        """A figure, or the word for its absence; the reason of a refusal becomes a note under the table."""
        if outcome is None:
            return MISSING
        if isinstance(outcome, Refused):
            note = f"{label}: {outcome.reason}"
            if note not in self.notes:
                self.notes.append(note)
            return "refused"
        text = figure(outcome.median) + suffix
        if spread and outcome.rounds > 1:
            text += f" ({figure(outcome.low)}-{figure(outcome.high)})"
        return f"{text} ~" if outcome.rounds > 1 and outcome.spread > NOISY and spread else text

    def text(self) -> str:
        """Aligned columns for a terminal."""
        widths = [max(len(row[at]) for row in [self.header, *self.rows]) for at in range(len(self.header))]

        def line(row: list[str]) -> str:
            first, *others = (
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            return "  ".join([first, *others]).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([self.title, line(self.header), rule, *map(line, self.rows), *self._note_lines("  ")])

    def markdown(self) -> str:
        """The same as a Markdown table; a pipe in a cell is escaped."""

        def line(row: list[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

        rule = "|---|" + "--:|" * (len(self.header) - 1)
        lines = [f"## {self.title}", "", line(self.header), rule, *map(line, self.rows)]
        return "\n".join([*lines, *([""] if self.notes else []), *self._note_lines("- ")])

    def _note_lines(self, prefix: str) -> list[str]:
        return [f"{prefix}{note}" for note in self.notes]


def overview(results: Results) -> Table:
    """The one table: what each proxy costs, with ratios to the yardstick from the same rounds."""
    columns = [column for column in _OVERVIEW if results.cases(column[0])]
    table = Table("Cost by proxy (median of the rounds)", ["proxy"])
    for _, _, _, heading, with_ratio in columns:
        table.header += [heading, f"x {YARDSTICK}"] if with_ratio else [heading]
    for peer in results.peers():
        if peer == DIRECT:
            continue
        row = [peer]
        for suite, case, metric, heading, with_ratio in columns:
            row.append(table.cell(results.summary(suite, case, metric, peer), label=f"{peer}, {heading}"))
            if with_ratio:
                ratio = results.ratio(suite, case, metric, peer)
                row.append(table.cell(ratio, label=f"{peer}, x {YARDSTICK}", spread=True))
        table.rows.append(row)
    table.notes += [f"{peer} skipped: {reason}" for peer, reason in results.skipped.items()]
    return table


def sweep(results: Results, suite: str) -> Table:
    """CPU per unit along an axis: median and ratio to the yardstick in each cell."""
    title, unit = _SWEEPS[suite]
    cases = results.cases(suite)
    table = Table(f"{title}: {unit} (x {YARDSTICK})", ["proxy", *cases])
    for peer in results.peers():
        row = [peer]
        for case in cases:
            text = table.cell(results.summary(suite, case, "cpu", peer), label=f"{peer}, {case}")
            ratio = results.ratio(suite, case, "cpu", peer)
            row.append(f"{text} ({figure(ratio.median)}x)" if isinstance(ratio, Summary) else text)
        if any(cell != MISSING for cell in row[1:]):
            table.rows.append(row)
    return table


def listing(results: Results, suite: str) -> list[Table]:
    """Every figure of a suite: a table per case, a row per peer, a column per metric, median (min-max)."""
    made = []
    for case in results.cases(suite):
        found = [sample for sample in results.samples if (sample.suite, sample.case) == (suite, case)]
        columns = sorted(dict.fromkeys((s.metric, s.unit) for s in found), key=lambda column: column[0] != "cpu")
        table = Table(f"{_LISTS.get(suite, suite)}: {case}", ["proxy", *(" ".join(column) for column in columns)])
        for peer in dict.fromkeys(sample.peer for sample in found):
            row = [peer]
            for metric, unit in columns:
                outcome = results.summary(suite, case, metric, peer)
                row.append(table.cell(outcome, label=f"{peer}, {metric} {unit}", spread=True))
            table.rows.append(row)
        made.append(table)
    return made


def tables(results: Results) -> list[Table]:
    """The overview first, then one table per suite that was measured; a sweep's other figures follow it."""
    found = dict.fromkeys(sample.suite for sample in results.samples)
    made = [overview(results)]
    for suite in found:
        if suite in _SWEEPS:
            made.append(sweep(results, suite))
            details = Results([s for s in results.samples if s.suite == suite and s.metric != "cpu"], results.skipped)
            made.extend(_details(details, suite))
        else:
            made.extend(listing(results, suite))
    return made


def _details(results: Results, suite: str) -> list[Table]:
    made = []
    for metric, unit in dict.fromkeys((sample.metric, sample.unit) for sample in results.samples):
        table = Table(f"{_SWEEPS[suite][0].split(' over ', 1)[1]}: {metric}, {unit}", ["proxy", *results.cases(suite)])
        for peer in results.peers():
            cells = [
                table.cell(results.summary(suite, case, metric, peer), label=f"{peer}, {case}")
                for case in results.cases(suite)
            ]
            table.rows.append([peer, *cells])
        made.append(table)
    return made


def markdown(results: Results, environment: Mapping[str, str], why: Mapping[str, str], plots: list[str]) -> str:
    """The whole report."""
    first, *others = tables(results)
    lines = ["# What gomodel costs beside other proxies", "", first.markdown(), ""]
    lines += [
        f"CPU is user and system time of the whole process tree per unit of work. Ratios are to {YARDSTICK} in the same"
        " round; in brackets the lowest and highest of the rounds; `~` marks a spread above"
        f" {NOISY:.0%} of the median. No ratio is given for a run that saw an error or a proxy that held events back.",
        "",
    ]
    lines += [f"![{name}]({name})" for name in plots]
    for table in others:
        lines += ["", table.markdown()]
    lines += ["", "## How each proxy was run", ""]
    lines += [f"- **{name}**: {text}" for name, text in why.items()]
    lines += ["", "## Where", ""]
    lines += [f"- {name}: {value}" for name, value in environment.items()]
    return "\n".join(lines) + "\n"


def as_json(results: Results, environment: Mapping[str, str], why: Mapping[str, str]) -> str:
    """Every sample and every table, for other tools."""
    document = {
        "environment": dict(environment),
        "configurations": dict(why),
        "skipped": results.skipped,
        "tables": [asdict(table) for table in tables(results)],
        "samples": [asdict(sample) for sample in results.samples],
    }
    return json.dumps(document, indent=1) + "\n"
