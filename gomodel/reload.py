"""SIGHUP: the configuration to go on with.

Decides that a bad configuration changes nothing, which settings only a restart can change, and what must not vanish
while requests are served. Knows nothing of how a running process takes up what it is given.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from . import notices
from .config import Config, ConfigError
from .listeners import tls_context

_logger = logging.getLogger("gomodel")

Load = Callable[[], Config]

# What was decided when the sockets were bound and the processes started: the field, and what operators call it.
_FIXED = {
    "host": "HOST",
    "port": "PORT",
    "unix_socket": "GOMODEL_UNIX_SOCKET",
    "workers": "GOMODEL_WORKERS",
}


def log_refusal(error: ConfigError) -> None:
    """Say that a new configuration changes nothing, and everything that is wrong with it."""
    _logger.error("The new configuration is not used, the old one stays: %s", "; ".join(error.problems))


def read_again(load: Load, current: Config) -> Config | None:
    """The new configuration, its changes logged; None, with all its problems logged, when the current one stays.

    Settings that only a restart can change are those of `current`, and the log says so (contract section 7).
    """
    try:
        config = load()
        if vanished := _vanished(config, current):
            raise ConfigError(vanished)
        if current.tls_cert_file is not None:
            tls_context(config)
    except ConfigError as error:
        log_refusal(error)
        return None
    fixed = {field: getattr(current, field) for field in _FIXED}
    ignored = [name for field, name in _FIXED.items() if getattr(config, field) != fixed[field]]
    if (config.tls_cert_file is None) != (current.tls_cert_file is None):
        ignored.append("TLS_CERT_FILE")
        fixed |= {"tls_cert_file": current.tls_cert_file, "tls_key_file": current.tls_key_file}
    _logger.info("The configuration was read again; requests that run end by the old one")
    notices.settings(config)
    if ignored:
        _logger.warning("Changed but ignored until a restart: %s", ", ".join(ignored))
    for warning in config.warnings:
        if warning not in current.warnings:
            _logger.warning("%s", warning)
    return replace(config, **fixed)


def _vanished(config: Config, current: Config) -> list[str]:
    """What `current` has and `config` lacks in a way that looks like a file caught while it was being replaced.

    Many editors and copies truncate before they write. A signal in between would open the gateway to everybody, or
    send its clients to an instance that nobody named; whoever means it can restart.
    """
    problems = []
    if current.master_key is not None and config.master_key is None:
        problems.append("GOMODEL_MASTER_KEY was set and is gone; restart to serve without a key")
    if current.dotenv and not config.dotenv:
        problems.append(".env was in use and is now missing or sets nothing; restart to serve without it")
    return problems
