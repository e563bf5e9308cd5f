"""The pages that are made of the code: docs/metrics.md of the metrics' families, docs/cli.md of the command line.

`python -m docs.site.reference`, or `make docs-reference`, writes them anew. Decides how they are laid out.
"""

import os
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path

from gomodel.__main__ import command_line
from gomodel.operations.families import FAMILIES

DOCS = Path(__file__).parents[1]
_MADE = "<!-- Made by `make docs-reference` of the code; a change made here is lost. -->"


def metrics() -> str:
    """docs/metrics.md."""
    return "\n".join(_metrics()) + "\n"


def _metrics() -> Iterator[str]:
    yield _MADE
    yield from ("# Metrics", "")
    yield (
        "`GET /metrics` (`METRICS_ENDPOINT`) has these, all workers in one scrape, for the master key, for keys with"
        " `metrics = true`, or for everybody with `METRICS_PUBLIC`. `upstream` is the instance. A scrape with a key:"
    )
    yield from ("", "```yaml", "scrape_configs:", "  - job_name: gomodel")
    yield from ("    authorization: {credentials_file: /etc/prometheus/gomodel-key}", "    static_configs:")
    yield from ('      - targets: ["gateway:8080"]', "```", "")
    files = "`docker/grafana-dashboard.json`, `docker/prometheus-alerts.yaml`"
    yield f"Dashboard and alerts: {files} ([guide](guides/prometheus.md))."
    yield from ("", "| metric | kind | labels | meaning |", "|---|---|---|---|")
    for each in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        yield f"| `{each.name}` | {each.kind} | {labels} | {each.help} |"


def command_lines() -> str:
    """docs/cli.md."""
    return "\n".join(_command_lines()) + "\n"


def _command_lines() -> Iterator[str]:
    yield _MADE
    yield from ("# Command line", "")
    yield (
        "`gomodel`, or `python -m gomodel`. What it serves is said by variables ([configuration](configuration.md)),"
        " not by options. Completion: `gomodel --completion bash > /etc/bash_completion.d/gomodel` (zsh, tcsh; takes"
        " `pip install '.[completion]'`). `NO_COLOR=1` turns colours off."
    )
    parser = command_line()
    yield from ("", "## gomodel", "", "```text", _help(parser), "```")
    for name, each in _subcommands(parser).items():
        yield from ("", f"## gomodel {name}", "", "```text", _help(each), "```")


def _subcommands(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    [found] = (action for action in parser._actions if isinstance(action, _SubParsersAction))
    return dict(found.choices)


def _help(parser: ArgumentParser) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"  # which argparse asks for the width
    try:
        return parser.format_help().rstrip()
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def main() -> None:
    """Write the pages anew."""
    (DOCS / "metrics.md").write_text(metrics(), encoding="utf-8")
    (DOCS / "cli.md").write_text(command_lines(), encoding="utf-8")


if __name__ == "__main__":
    main()
