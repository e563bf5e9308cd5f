"""Plots as SVG text, written by hand so that measuring needs no plotting library.

Decides geometry and colours. Knows nothing of samples beyond names and numbers; a figure that was refused is not drawn.
"""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from bench.report import figure
from bench.stats import Results, Summary

WIDTH = 760
_COLOURS = {
    "direct": "#999999",
    "nginx": "#2a9d4a",
    "gomodel": "#1f6feb",
    "envoy": "#b0418f",
    "vllm-router": "#e07b00",
    "smg": "#8a5a2b",
    "litellm": "#c62828",
}
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
# A bar this many times longer than all others would hide them: it is cut and marked.
_CUT = 3.0
# Above this ratio between the largest and the smallest value a linear axis shows only the largest.
_LOG_ABOVE = 12.0


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222" {extra}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _document(height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" {_FONT}>'
    background = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    heading = _text(16, 24, title, extra='font-size="15" font-weight="600"')
    return "\n".join([head, f"<title>{escape(title)}</title>", background, heading, *parts, "</svg>"]) + "\n"


def bars(title: str, unit: str, values: Mapping[str, Summary]) -> str:
    """One horizontal bar per peer at the median, with a whisker from the lowest to the highest round."""
    left, right, top, step = 110.0, WIDTH - 130.0, 44.0, 28.0
    highs = sorted(max(summary.high, summary.median) for summary in values.values())
    limit = highs[-1] if highs else 1.0
    if len(highs) > 1 and highs[-1] > _CUT * highs[-2]:
        limit = highs[-2] * 1.5
    scale = (right - left) / (limit or 1.0)
    parts = []
    for index, (name, summary) in enumerate(values.items()):
        y = top + index * step
        cut = summary.median > limit
        end = right if cut else left + max(0.0, summary.median) * scale
        colour = _COLOURS.get(name, "#555555")
        parts.append(_text(left - 8, y + 14, name, "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="18" fill="{colour}" rx="2"/>')
        whisker = min(summary.high, limit)
        if cut:
            parts.append(_line(end - 14, y + 20, end - 8, y - 2, "#ffffff", 3))
        else:
            parts.append(_line(left + max(0.0, summary.low) * scale, y + 9, left + whisker * scale, y + 9, "#222", 1.5))
        label = max(end, left + whisker * scale if not cut else end)
        parts.append(_text(label + 6, y + 14, f"{figure(summary.median)} {unit}"))
    return _document(top + len(values) * step + 16, title, parts)


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return [10.0**power for power in range(first, last + 1)]
    step = 10 ** math.floor(math.log10(high)) if high > 0 else 1.0
    step = next(step * part for part in (0.2, 0.5, 1.0, 2.0) if high / (step * part) <= 6)
    return [step * index for index in range(math.ceil(high / step) + 1)]


def lines(title: str, x_label: str, unit: str, series: Mapping[str, Mapping[float, float]]) -> str:
    """One line per peer over a logarithmic x axis; y is logarithmic too when the peers are far apart."""
    left, right, top, bottom = 64.0, WIDTH - 130.0, 48.0, 340.0
    xs = sorted({x for points in series.values() for x in points})
    ys = [y for points in series.values() for y in points.values() if y > 0]
    if not xs or not ys:
        return _document(60, title, [_text(16, 48, "nothing was measured")])
    log = max(ys) / min(ys) > _LOG_ABOVE
    ticks = _ticks(min(ys), max(ys), log=log)

    def along(value: float, low: float, high: float, *, log: bool) -> float:
        if log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low) if high > low else 0.5

    def x_at(x: float) -> float:
        return left + (right - left) * along(x, xs[0], xs[-1], log=True)

    def y_at(y: float) -> float:
        return bottom - (bottom - top) * along(y, ticks[0], ticks[-1], log=log)

    parts = []
    for tick in ticks:
        parts.append(_line(left, y_at(tick), right, y_at(tick), "#dddddd"))
        parts.append(_text(left - 6, y_at(tick) + 4, f"{tick:g}", "end"))
    for x in xs:
        parts.append(_line(x_at(x), bottom, x_at(x), bottom + 5, "#222"))
        parts.append(_text(x_at(x), bottom + 20, f"{x:g}", "middle"))
    parts.append(_text((left + right) / 2, bottom + 40, x_label, "middle"))
    parts.append(_text(16, 40, unit))
    labels: list[float] = []
    for name, points in sorted(series.items(), key=lambda item: max(item[1].items(), default=(0.0, 0.0))[1]):
        known = sorted((x, y) for x, y in points.items() if y > 0)
        if not known:
            continue
        colour = _COLOURS.get(name, "#555555")
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in known)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>' for x, y in known]
        # Series come from the lowest line up: a label that would touch the one below it moves up.
        label = min([y_at(known[-1][1]) + 4, *(other - 14 for other in labels[-1:])])
        labels.append(label)
        parts.append(_text(x_at(known[-1][0]) + 10, label, name, extra=f'style="fill:{colour}"'))
    return _document(bottom + 52, title, parts)


def _medians(results: Results, suite: str, case: str, metric: str) -> dict[str, Summary]:
    found = {peer: results.summary(suite, case, metric, peer) for peer in results.peers()}
    return {peer: outcome for peer, outcome in found.items() if isinstance(outcome, Summary)}


def draw(results: Results) -> dict[str, str]:
    """File name -> SVG text for everything that was measured."""
    made: dict[str, str] = {}
    for name, suite, case, metric, title, unit in (
        ("json", "json", "chat, 32 connections", "cpu", "CPU per JSON request", "us"),
        ("sse", "sse", "200 streams", "cpu", "CPU per SSE event", "us"),
        ("latency", "latency", "one connection", "added p50", "Added latency, one connection, p50", "us"),
        ("latency-p99", "latency", "one connection", "added p99", "Added latency, one connection, p99", "us"),
        ("memory", "memory", "mixed load", "after load 2", "Resident memory after load", "MiB"),
        ("start", "start", "cold start", "first 200", "Cold start to the first answer", "ms"),
        ("body-5mb", "bodies", "image 5 MB, model last", "cpu", "CPU per 5 MB request, messages before model", "us"),
        ("body-5mb-memory", "bodies", "image 5 MB, model last", "peak rss", "Peak memory, four 5 MB uploads", "MiB"),
    ):
        if values := _medians(results, suite, case, metric):
            made[f"{name}.svg"] = bars(title, unit, values)
    for suite, title, label in (
        ("connections", "CPU per JSON request over concurrency", "keep-alive connections"),
        ("streams", "CPU per SSE event over open streams (10,000 events/s in all)", "open streams"),
    ):
        series: dict[str, dict[float, float]] = {}
        for case in results.cases(suite):
            for peer, summary in _medians(results, suite, case, "cpu").items():
                series.setdefault(peer, {})[float(case)] = summary.median
        if series:
            made[f"{suite}.svg"] = lines(title, label, "us", series)
    return made
