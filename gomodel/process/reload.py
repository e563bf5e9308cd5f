"""SIGHUP, and files that have changed (GOMODEL_WATCH): the configuration to go on with.

Decides that a bad configuration changes nothing, when files are whole, which settings only a restart can change, and
what must not vanish while requests are served. Reads in threads of its own, so that no loop and no supervisor waits
for a file. Knows nothing of how a running process takes up what it is given.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from time import sleep

from ..config.files import Files, Mark, marks
from ..config.settings import Config, ConfigError
from ..host.tls import tls_context
from ..upstream.root_certificates import provide
from . import start_log

_logger = logging.getLogger("gomodel")

# Called in another thread. Given the same Files again it may be asked again.
Load = Callable[[Files], Config]

# Whoever writes a file has mostly written all of it in this time.
SETTLE_S = 0.1
# So many readings in a row, SETTLE_S apart, must agree; more when something is missing that was there before.
AGREED = 2
AGREED_ON_LESS = 10
READINGS = 30
# Nothing here takes that long but a file system that hangs.
LIMIT_S = 5.0

# What was decided when the sockets were bound and the processes started: the field, and what operators call it.
_FIXED = {
    "host": "HOST",
    "port": "PORT",
    "unix_socket": "GOMODEL_UNIX_SOCKET",
    "workers": "GOMODEL_WORKERS",
    "traces": "OTEL_* (traces)",
}


def log_refusal(error: ConfigError) -> None:
    """Say that a new configuration changes nothing, and everything that is wrong with it."""
    _logger.error("The new configuration is not used, the old one stays: %s", "; ".join(error.problems))
    for hint in error.hints:
        _logger.warning("%s", hint)


class Rereading:
    """Reads the configuration again, once at a time and beside whatever the process does."""

    def __init__(self, load: Load, finished: Callable[[], object]) -> None:
        """`finished` is called in another thread when `result` has something to say, at most LIMIT_S after `begin`."""
        self._load = load
        self._finished = finished
        self._outcome: Config | ConfigError | None
        self._again = False
        self._seen: dict[str, Mark] | None = None  # the files that were read last, as they were
        self.busy = False

    def begin(self, current: Config) -> None:
        """Start reading; what is asked for while a reading is under way is done after it."""
        if self.busy:
            self._again = True
        else:
            self._start(current, only_if_changed=False)

    def look(self, current: Config) -> None:
        """Start reading if one of the files that were read last has changed; not while a reading is under way."""
        if not self.busy:
            self._start(current, only_if_changed=True)

    def _start(self, current: Config, *, only_if_changed: bool) -> None:
        self.busy = True
        try:
            Thread(target=self._watch, args=(current, only_if_changed), daemon=True, name="reload").start()
        except RuntimeError:
            self._outcome = ConfigError(["there is no thread left to read it with"])
            self._finished()

    def result(self, current: Config) -> Config | None:
        """The configuration to go on with, its changes logged; None, with all its problems logged, to stay with
        `current`, and where nothing was read because no file has changed. When another reading was asked for meanwhile
        it has begun, and `busy` says so.

        Settings that only a restart can change are those of `current`, and the log says so (contract section 7).
        """
        self.busy = False
        outcome = self._outcome
        if isinstance(outcome, Config):
            outcome = _taken(outcome, current)
        elif outcome is not None:
            log_refusal(outcome)
        if self._again:
            self._again = False
            self.begin(outcome if isinstance(outcome, Config) else current)
        return outcome if isinstance(outcome, Config) else None

    def _watch(self, current: Config, only_if_changed: bool) -> None:
        read: list[Config | ConfigError | None] = []
        try:
            what = current, only_if_changed, read.append
            reader = Thread(target=self._read, args=what, daemon=True, name="reload")
            reader.start()
            reader.join(LIMIT_S)
        finally:
            self._outcome = read[0] if read else ConfigError(["its files could not be read in time"])
            self._finished()

    def _read(
        self, current: Config, only_if_changed: bool, say: Callable[[Config | ConfigError | None], object]
    ) -> None:
        files = Files()
        seen = current.files if self._seen is None else self._seen
        if only_if_changed and marks(seen) == seen:
            say(None)
            return
        try:
            say(read_again(self._load, current, files))
        except ConfigError as error:
            say(error)
        finally:
            self._seen = files.seen


def read_again(load: Load, current: Config, files: Files | None = None) -> Config:
    """The new configuration, once its files are whole. Raises ConfigError when `current` is to stay."""
    config = settled(load, current, files or Files())
    if vanished := _vanished(config, current):
        raise ConfigError(vanished)
    if current.certificate is not None:
        tls_context(config)
    provide(config)
    return config


def settled(load: Load, current: Config, files: Files) -> Config:
    """What replaces `current`, when so many readings in a row agree as it takes to believe it. Raises ConfigError.

    Editors and copies truncate a file before they write it, and may take their time in between.
    """
    before: object = None
    agreed = 0
    for _ in range(READINGS):
        needed = AGREED
        try:
            config = load(files)
            found: Config | ConfigError = config
            state: object = (config, config.dotenv, config.dotenv_ended, config.ended)
            if _gone(config, current) or _vanished(config, current):
                needed = AGREED_ON_LESS
        except ConfigError as error:
            found, state = error, error.problems
        agreed = agreed + 1 if state == before else 1
        if agreed >= needed:
            if isinstance(found, Config):
                return found
            raise found
        before = state
        sleep(SETTLE_S)
    raise ConfigError(["its files are being written; send SIGHUP again when they are whole"])


def _gone(config: Config, current: Config) -> list[str]:
    """The instances that `current` has and `config` has not."""
    left = {each.name for each in config.instances}
    return [each.name for each in current.instances if each.name not in left]


def _former(config: Config, current: Config) -> frozenset[str]:
    """The names whose servers a reload took away, which does not include one that has another name now."""
    served = {server for each in config.instances for server in each.servers}
    renamed = {each.name for each in current.instances if not served.isdisjoint(each.servers)}
    return current.former.union(_gone(config, current)) - renamed - {each.name for each in config.instances}


def _vanished(config: Config, current: Config) -> list[str]:
    """What `current` has and `config` lacks in a way that looks like a file that is not whole.

    A signal in the middle of a write would open the gateway to everybody, or send its clients' prompts to a server that
    nobody named; whoever means it can restart.
    """
    problems = opened(config, master_key=bool(current.master_keys), keys_file=current.keys is not None)
    problems += cut_short(config, current)
    served = {each.servers for each in current.instances}
    for each in config.instances:
        if each.assumed and each.servers not in served:
            problems.append(f"no VLLM_BASE_URL is set any more; set it, or restart to serve {each.servers[0]}")
    return problems


def opened(config: Config, *, master_key: bool, keys_file: bool) -> list[str]:
    """What `config` lacks of that without which everybody is let in, where it was there before."""
    problems = []
    if master_key and not config.master_keys:
        problems.append("GOMODEL_MASTER_KEY was set and is gone; restart to serve without a key")
    if keys_file and config.keys is None:
        problems.append("GOMODEL_KEYS_FILE was set and is gone; restart to serve without it")
    return problems


def cut_short(config: Config, current: Config) -> list[str]:
    """What is wrong with the files of `config` that looks as if they were not whole, and was not so in `current`."""
    problems = []
    if current.dotenv and not config.dotenv:
        problems.append(".env was in use and is now missing or sets nothing; restart to serve without it")
    elif current.dotenv and current.dotenv_ended and not config.dotenv_ended:
        problems.append("the last line of .env has lost its line end, so it may be cut short; end the line, or restart")
    for file, ended in config.ended.items():
        if current.ended.get(file) and not ended:
            problems.append(
                f"the last line of {file} has lost its line end, so it may be cut short; end it, or restart"
            )
    return problems


def _taken(config: Config, current: Config) -> Config:
    """`config` with what only a restart can change as in `current`; says what is new."""
    fixed = {field: getattr(current, field) for field in _FIXED}
    ignored = [name for field, name in _FIXED.items() if getattr(config, field) != fixed[field]]
    if _kept_where(config) != _kept_where(current):
        ignored.append("GOMODEL_DATA_DIR or GOMODEL_DATABASE_URL")
        kept = current.batches
        fixed["batches"] = replace(config.batches, data_dir=kept.data_dir, database_url=kept.database_url)
    if (config.certificate is None) != (current.certificate is None):
        ignored.append("TLS_CERT_FILE")
        fixed["certificate"] = current.certificate
    _logger.info("The configuration was read again; requests that run end by the old one")
    start_log.settings(config)
    former = _former(config, current)
    if gone := _gone(config, current):
        _logger.warning("No longer configured, and no longer served: %s", ", ".join(gone))
        if former and len(config.instances) == 1:
            _logger.warning(
                "Until a restart %s gets only what names it or a model that it lists", config.instances[0].name
            )
    if ignored:
        _logger.warning("Changed but ignored until a restart: %s", ", ".join(ignored))
    for warning in config.warnings:
        if warning not in current.warnings:
            _logger.warning("%s", warning)
    return replace(config, former=former, **fixed)


def _kept_where(config: Config) -> object:
    """Where files and batches are."""
    return config.batches.data_dir, config.batches.database_url
