"""The plots that README and BENCHMARKS.md show, drawn from the tables of BENCHMARKS.md: `python -m bench.published`.

Decides which columns are shown. Measures nothing, so that a plot says what the page says.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from bench import plots
from bench.stats import Summary

PAGE = Path("BENCHMARKS.md")
IMAGES = Path("docs", "images")
TOKEN = "cpu-per-token.svg"
_ROW = re.compile(r"^\| \**(nginx|gomodel|Envoy|vllm-router|SMG)\b[^|]*\|" + r" \**([\d.]+)\**[^|]*\|[^|]*\|" * 2)
_SWEEPS = (
    ("cpu-over-connections.svg", "connections", "CPU per small request over connections", "keep-alive connections"),
    ("cpu-over-streams.svg", "open streams", "CPU per event over open streams, 10,000 events a second", "open streams"),
)


def drawn(page: str) -> dict[str, str]:
    """File name -> SVG text of each plot."""
    made = {TOKEN: per_token(page)}
    for name, column, title, label in _SWEEPS:
        made[name] = plots.lines(title, label, "us", _sweep(page, column))
    return made


def per_token(page: str) -> str:
    """Microseconds per SSE event, by proxy: the first table of `page`."""
    found: dict[str, Summary] = {}
    for line in page.splitlines():
        if (row := _ROW.match(line)) and row[1].lower() not in found:
            value = float(row[3])
            found[row[1].lower()] = Summary(value, value, value, 1)
    return plots.bars("CPU time for one token of a stream (lower is better)", "us", found)


def _sweep(page: str, column: str) -> dict[str, dict[float, float]]:
    """By proxy, microseconds at each of the numbers that stand in the head of the table behind `column`."""
    rows = list(_table(page, column))
    start = next(at for at, cell in enumerate(rows[0]) if cell.startswith(column))
    counts = []
    for cell in rows[0][start + 1 :]:
        if not re.fullmatch(r"[\d,]+", cell):
            break
        counts.append(float(cell.replace(",", "")))
    return {
        row[start].lower(): {
            count: float(cell.partition(" ")[0]) for count, cell in zip(counts, row[start + 1 :], strict=False)
        }
        for row in rows[2:]
    }


def _table(page: str, column: str) -> Iterator[list[str]]:
    inside = False
    for line in page.splitlines():
        inside = line.startswith("|") and (inside or f"| {column}" in line)
        if inside:
            yield [cell.strip().strip("*") for cell in line.strip("|").split("|")]


def main() -> None:
    """Draw them."""
    for name, text in drawn(PAGE.read_text(encoding="utf-8")).items():
        (IMAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
