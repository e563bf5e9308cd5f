"""How log lines look and how they leave the process.

Decides that a record is one line whatever a client put into it, and that nobody ever waits for whoever reads the
log. Knows nothing of what is logged.
"""

import asyncio
import json
import logging
import os
import re
import select
import sys
from collections import deque
from time import gmtime, strftime

from ..host.terminal import coloured, shows_colours

# Escapes all that is not ASCII: control characters of any age, direction marks, lone surrogates out of JSON escapes.
_encode = json.JSONEncoder(check_circular=False).encode
_PLAIN = re.compile(r"[\w.:/@+*{}\[\]-]+")

# A pipe that is writable takes this much at once (POSIX: PIPE_BUF); a larger write could block on its reader.
_WRITE_BYTES = 4096
# What waits for a reader that does not read; then lines are dropped and counted.
PENDING_BYTES = 1 << 20
_RETRY_S = 0.1
_LAST_WAIT_MS = 1000


_worker = ""


def name_worker(name: str) -> None:
    """Say `name` in every line of this process: others write lines like them to the same log."""
    global _worker  # noqa: PLW0603 - one name for the process
    _worker = name


def count(number: int, what: str) -> str:
    """`number` of `what`, which takes an s when they are several."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        if record.msg or not fields:
            fields = {"message": record.getMessage(), **fields}
        if record.exc_info:
            fields = {**fields, "traceback": self.formatException(record.exc_info)}
        # The part in front needs no escaping, and an access line is written for every request.
        level, rest = record.levelname.lower(), _encode(fields)[1:]
        source = f'{record.name}", "worker": "{_worker}' if _worker else record.name
        return f'{{"time": "{_time(record.created)}", "level": "{level}", "logger": "{source}", {rest}'


_MOODS = {logging.DEBUG: "dim", logging.WARNING: "doubtful", logging.ERROR: "bad", logging.CRITICAL: "bad"}

# What event loops say of a peer that is gone and was written to nevertheless: nothing that anybody could mend.
_LOST = "socket.send() raised exception."


def _of_lost_connections(record: logging.LogRecord) -> bool:
    """A filter that puts such lines at DEBUG."""
    if record.msg == _LOST:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger("gomodel").isEnabledFor(logging.DEBUG)
    return True


class TextFormatter(logging.Formatter):
    """One readable line, for people; only a traceback takes more. `colours`: for a terminal that shows them."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._moods = _MOODS if colours else {}

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<7}"
        if mood := self._moods.get(record.levelno):
            level = coloured(level, mood)
        parts = [_time(record.created), level]
        if record.msg:
            message = record.getMessage()
            # Messages are ours, their arguments may not be.
            parts.append(message if message.isprintable() else _encode(message)[1:-1])
        fields: dict[str, object] = getattr(record, "fields", {})
        parts += [f"{name}={_word(value)}" for name, value in fields.items() if value is not None and value != ""]
        if _worker:
            parts.append(f"worker={_worker}")
        text = " ".join(parts)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _word(value: object) -> str:
    # Quoted wherever it could be taken for two words, for another field, or for an order to a terminal.
    if not isinstance(value, str):
        return str(value)
    return value if _PLAIN.fullmatch(value) else _encode(value)


_second: tuple[int, str] = (0, "")


def _time(created: float) -> str:
    """RFC 3339 in UTC with milliseconds; the part before them is made once a second."""
    global _second  # noqa: PLW0603 - one cached string for the process
    whole = int(created)
    if _second[0] != whole:
        _second = (whole, strftime("%Y-%m-%dT%H:%M:%S", gmtime(whole)))
    return f"{_second[1]}.{int((created - whole) * 1000):03d}Z"


class Outlet(logging.Handler):
    """Writes lines to a descriptor, those of one turn of the event loop in one go, and never waits for its reader.

    A log collector that stops reading would otherwise stop every stream at the next line. Warnings leave at once.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # on which a flush is due

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):
            self.handleError(record)
            return
        self._put(line.encode("utf-8", "backslashreplace") + b"\n")
        if record.levelno >= logging.WARNING:
            self.flush()
            return
        loop = asyncio._get_running_loop()
        if loop is None:
            self.flush()
        elif loop is not self._loop:
            self._loop = loop
            loop.call_soon(self._flush_due)

    def _put(self, line: bytes) -> None:
        if self._pending_bytes >= PENDING_BYTES:
            self._dropped += 1
            return
        self._pending.append(line)
        self._pending_bytes += len(line)

    def _flush_due(self) -> None:
        loop, self._loop = self._loop, None
        self.flush()
        if self._pending and loop is not None:
            self._loop = loop
            loop.call_later(_RETRY_S, self._flush_due)

    def flush(self) -> None:
        """Write what can be written without waiting."""
        self._write(0)

    def close(self) -> None:
        """Write the rest, as far as somebody reads it within a second each time."""
        self._write(_LAST_WAIT_MS)
        super().close()

    def _write(self, wait_ms: int) -> None:
        pending = self._pending
        self.acquire()
        try:
            while pending and self._poll.poll(wait_ms):
                piece = pending.popleft()
                while pending and len(piece) + len(pending[0]) <= _WRITE_BYTES:
                    piece += pending.popleft()
                written = os.write(self._fd, piece[:_WRITE_BYTES])
                self._pending_bytes -= written
                if written < len(piece):
                    pending.appendleft(piece[written:])
                if not pending and self._dropped:
                    self._put(self._notice())
        except BlockingIOError:
            pending.appendleft(piece)  # somebody else made the descriptor non-blocking
        except OSError:
            pending.clear()  # there is no reader any more, and nobody to tell
            self._pending_bytes = 0
        finally:
            self.release()

    def _notice(self) -> bytes:
        text = f"{self._dropped} log lines were dropped because nobody read the log"
        self._dropped = 0
        record = logging.makeLogRecord(
            {"name": "gomodel", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
        )
        return self.format(record).encode() + b"\n"


def configure_logging(level: str, form: str) -> None:
    """Send gomodel's log to standard error; `form` auto: text on a terminal, JSON elsewhere (contract section 1)."""
    handler: logging.Handler
    try:
        handler = Outlet(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        handler = logging.StreamHandler()  # standard error is no descriptor, as inside another program
    text = form == "text" or (form == "auto" and sys.stderr is not None and sys.stderr.isatty())
    handler.setFormatter(TextFormatter(colours=shows_colours(sys.stderr)) if text else JsonFormatter())
    loops = logging.getLogger("asyncio")  # uvloop's too; it would write to standard error by itself, and wait there
    if _of_lost_connections not in loops.filters:
        loops.addFilter(_of_lost_connections)
    for logger in (logging.getLogger("gomodel"), loops):
        for former in logger.handlers:
            former.flush()
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    loops.setLevel(max(logging.WARNING, loops.level))  # what it says below is of use to its developers
