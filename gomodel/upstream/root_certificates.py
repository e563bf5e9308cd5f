"""The root certificates of the system: read when an instance is reached over https, not before.

aiohttp.connector reads them twice while it is imported, which is a fifth of gomodel's start-up and 2 MB in every
process, for nothing where vLLM speaks plain http. Leans on `connector._SSL_CONTEXT_VERIFIED` being what it verifies
with; without roots it trusts nobody, so a mistake here refuses connections and never lets a bad one through.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from ..config.settings import Config

_postponed = False


@contextmanager
def postponed() -> Iterator[None]:
    """A block whose imports read no root certificates; `provide` makes up for it."""
    global _postponed  # noqa: PLW0603 - what was imported so holds for the process
    context = ssl.SSLContext
    readers = context.load_default_certs, context.set_default_verify_paths
    context.load_default_certs = context.set_default_verify_paths = _read_nothing  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        context.load_default_certs, context.set_default_verify_paths = readers  # type: ignore[method-assign]
    _postponed = True


def missing(config: Config) -> bool:
    """Whether an instance of `config` needs the root certificates and they have not been read."""
    return _postponed and any(each.secured for each in config.instances)


def provide(config: Config) -> None:
    """Read the root certificates if they are missing; takes milliseconds, and as long as the disk wants."""
    global _postponed  # noqa: PLW0603
    if missing(config):
        from aiohttp import connector  # noqa: PLC0415 - not before `postponed`

        connector._SSL_CONTEXT_VERIFIED.load_default_certs()
        _postponed = False


def _read_nothing(*_: object) -> None:
    pass
