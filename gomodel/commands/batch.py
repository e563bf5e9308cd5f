"""`gomodel batch`: its options, and which gateway runs the file with which key."""

import os
import sys
from typing import TYPE_CHECKING

from .arguments import A_FILE
from .command import FAILED, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    assert options is not None
    from pathlib import Path  # noqa: PLC0415

    from ..batches.command import Asked, batch  # noqa: PLC0415
    from ..config.load import load  # noqa: PLC0415

    url, key = options.url or os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if url is None or key is None:
        config = load(os.environ)  # of the gateway on this host
        if url is None and config.port is None:
            print("gomodel batch: --url is needed: the gateway on this host listens on a unix socket", file=sys.stderr)
            return FAILED
        scheme = "http" if config.certificate is None else "https"
        url = url or f"{scheme}://localhost:{config.port}{config.base_path}/v1"
        key = key or (config.master_keys[0].reveal() if config.master_keys else "")
    url = url.rstrip("/")
    if not url.endswith("/v1"):
        url += "/v1"
    return batch(Asked(Path(options.file), Path(options.out), url, key, options.window))


def _options(parser: "ArgumentParser") -> None:
    file = parser.add_argument(
        "file", metavar="FILE", help="requests as JSON lines, as OpenAI's batches or vllm run-batch have them"
    )
    out = parser.add_argument(
        "--out", metavar="RESULT", required=True, help="file for the answers; lines that it has are not run"
    )
    file.complete = out.complete = A_FILE  # type: ignore[attr-defined]
    parser.add_argument(
        "--url", metavar="URL", help="base URL of the gateway (default: OPENAI_BASE_URL, or the gateway on this host)"
    )
    parser.add_argument("--window", metavar="DURATION", default="24h", help="give up after this time (default 24h)")


def _epilog() -> str:
    return """\
The gateway needs GOMODEL_DATA_DIR. The key is that of OPENAI_API_KEY, or the
gateway's own on this host. Ctrl-C keeps what is done, a
second one leaves the batch to the gateway; the same command again goes on.

exit status: 0 when each line was answered with success, 1 otherwise,
130 after Ctrl-C
"""


BATCH = Command("batch", "run a file of requests by a gateway", _run, _options, _epilog)
