"""The bar of `gomodel batch`: on a terminal by rich, elsewhere a line now and then."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# What did not run counts as failed then: how much is done would be a lie.
_CUT_SHORT = frozenset({"cancelling", "cancelled", "expired"})
Show = Callable[[str, dict[str, int]], Any]


@contextmanager
def progress_bar(name: str) -> Iterator[Show]:
    """`show(status, request_counts)` whenever there is news."""
    if sys.stderr.isatty():
        with _bar(name) as show:
            yield show
        return
    said = ""

    def say(status: str, counts: dict[str, int]) -> None:
        nonlocal said
        done, total = counts["completed"] + counts["failed"], counts["total"]
        line = f"{name}: {status}" + (f", {done * 10 // total * 10}%" if total and status not in _CUT_SHORT else "")
        if line != said:
            said = line
            print(line, file=sys.stderr, flush=True)

    yield say


@contextmanager
def _bar(name: str) -> Iterator[Show]:
    from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None, status="")

        def show(status: str, counts: dict[str, int]) -> None:
            cut = status in _CUT_SHORT
            done, total = counts["completed"] + (0 if cut else counts["failed"]), counts["total"] or None
            failed = f", {counts['failed']} failed" if counts["failed"] and not cut else ""
            progress.update(task, completed=done, total=total, status=status + failed)

        yield show
