"""The plot that README shows, drawn from the table that BENCHMARKS.md has: `python -m bench.published` writes it anew.

Decides which column is shown. Measures nothing, so that the plot says what the page says.
"""

import re
from pathlib import Path

from bench import plots
from bench.stats import Summary

PAGE = Path("BENCHMARKS.md")
PLOT = Path("docs", "images", "cpu-per-token.svg")
_TITLE = "CPU time for one token of a stream (lower is better)"
_ROW = re.compile(r"^\| \**(nginx|gomodel|Envoy|vllm-router|SMG)\b[^|]*\|" + r" \**([\d.]+)\**[^|]*\|[^|]*\|" * 2)


def plot(page: str) -> str:
    """The SVG text of the microseconds per SSE event in the first table of `page`, by proxy."""
    found: dict[str, Summary] = {}
    for line in page.splitlines():
        if (row := _ROW.match(line)) and row[1].lower() not in found:
            value = float(row[3])
            found[row[1].lower()] = Summary(value, value, value, 1)
    return plots.bars(_TITLE, "us", found)


if __name__ == "__main__":
    PLOT.write_text(plot(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
