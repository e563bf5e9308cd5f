"""`gomodel usage`: its options, and what becomes of a table that nobody reads to its end."""

import os
import sys
from typing import TYPE_CHECKING

from .command import FAILED, INTERRUPTED, OK, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    from ..config.load import load  # noqa: PLC0415
    from ..process.usage_report import report  # noqa: PLC0415

    assert options is not None
    asked = {"by": options.by, "from": options.since, "to": options.until}
    try:
        done = report(load(os.environ), options.url, asked, as_csv=options.csv)
        sys.stdout.flush()
        return OK if done else FAILED
    except BrokenPipeError:  # as of `| head`, which has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


def _options(parser: "ArgumentParser") -> None:
    parser.add_argument("--by", default="key,model,instance", metavar="LIST", help="of key, model, instance (all)")
    parser.add_argument("--from", dest="since", metavar="TIME", help="such as 2027-01-31 (needs GOMODEL_DATA_DIR)")
    parser.add_argument("--to", dest="until", metavar="TIME", help="the same")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--url", metavar="URL", help="where the gateway is (default: what the environment describes)")


USAGE = Command("usage", "print who used how many tokens", _run, _options)
