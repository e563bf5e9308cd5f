"""`gomodel serve`, which is meant where no command is named: what its help says, and the first steps of a start."""

import gc
import os
import sys
from typing import TYPE_CHECKING

from ..host.signals import Signals
from .command import FAILED, Command

if TYPE_CHECKING:
    from argparse import Namespace

# What a client or an instance that leaves looks like while nobody reads from it is Linux' alone (`kernel`); elsewhere
# slots on GPUs would be kept for clients that are gone.
_NOT_LINUX = "gomodel runs on Linux; this is {}. Elsewhere use its container image: see docs/deploy.md."
_EPILOG = """\
variables most used, over a file .env (gomodel --example-env explains them all):
{variables}

signals:
  SIGTERM, SIGINT  let running requests end, then exit; a second one aborts them
  SIGHUP           read the configuration again; no connection is dropped
  SIGUSR1          log how busy the gateway is
  SIGUSR2          let the installed release take over; no client notices

exit status:
  0      ended after a drain
  1      cannot listen, or no worker stays up
  2, 64  wrong use of the command line; problems of the configuration, listed
  128+n  a second signal n aborted running requests (130 SIGINT, 143 SIGTERM)
"""


def _run(options: "Namespace | None") -> int:
    """Serve what the environment describes until told to end."""
    if not on_linux():
        return FAILED
    signals = take_signals()
    from ..config.load import load  # noqa: PLC0415 - the signals come first

    config = load(os.environ)
    from ..upstream.root_certificates import postponed  # noqa: PLC0415

    with postponed():
        from ..process.start import start  # noqa: PLC0415

    return start(config, lambda files: load(os.environ, files=files), signals)


def _epilog() -> str:
    from ..config.reference import first_names  # noqa: PLC0415

    return _EPILOG.format(variables=first_names())


def take_signals() -> Signals:
    """Take the signals over, before anything that takes time."""
    signals = Signals()
    signals.install()
    # What a start-up makes exists for good; looking for garbage among it takes time. `Serving` turns it on again.
    gc.disable()
    return signals


def on_linux() -> bool:
    """Whether this is Linux; says on stderr what to do where it is not."""
    if sys.platform == "linux":
        return True
    print(_NOT_LINUX.format(sys.platform), file=sys.stderr)
    return False


SERVE = Command("serve", "serve what the environment describes (default)", _run, epilog=_epilog)
