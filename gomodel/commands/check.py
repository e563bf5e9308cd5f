"""`gomodel check`: the configuration is read, and every instance asked once."""

import os
from typing import TYPE_CHECKING

from .command import FAILED, INTERRUPTED, OK, Command
from .serve import on_linux

if TYPE_CHECKING:
    from argparse import Namespace


def _run(options: "Namespace | None") -> int:
    if not on_linux():
        return FAILED
    from ..config.load import load  # noqa: PLC0415

    try:
        config = load(os.environ)
        from ..process.check import check  # noqa: PLC0415

        beside = ""
        if config.batches.on:
            from ..batches.database_check import database_problem  # noqa: PLC0415 - who has none does not pay for it

            beside = database_problem(config.batches)
        return OK if check(config, beside) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


CHECK = Command("check", "check the configuration, and ask every instance once", _run)
