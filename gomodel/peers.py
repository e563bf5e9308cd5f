"""Questions between the worker processes of one gateway: each listens on a private unix socket of its own.

Decides how a question travels and who is given up on. Knows nothing of what is asked: whoever can answer registers a
function for a kind of question ("metrics", "requests"), whoever asks gets one answer per other worker and adds its own.
With a single process there are no others and every question has no answers.

A process has one place among its siblings, so `register`, `ask_peers` and the rest are also functions of this module.
"""

import asyncio
import inspect
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_logger = logging.getLogger("gomodel")

# A worker whose loop is blocked for longer must not hold up a scrape of the others.
PATIENCE_S = 1.0
_SUFFIX = ".sock"
_READ_BYTES = 1 << 16

Answer = Callable[[Any], Any]


class Peers:
    """One worker's view of the others."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._path: Path | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    def register(self, kind: str, answer: Answer) -> None:
        """Answer questions of `kind` with `answer(argument)`, plain or async; what JSON can carry, both ways.

        A later one for the same kind replaces it.
        """
        self._answers[kind] = answer

    async def join(self, directory: Path, name: str) -> None:
        """Listen in `directory`, which the workers share and nobody else may enter. Raises OSError."""
        path = directory / f"{name}{_SUFFIX}"
        self._server = await asyncio.start_unix_server(self._on_question, path)
        self._path = path

    async def leave(self) -> None:
        """Stop answering."""
        if self._server is None or self._path is None:
            return
        self._server.close()
        self._path.unlink(missing_ok=True)
        self._server = self._path = None
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def ask(self, kind: str, argument: Any = None) -> list[Any]:
        """The answers of all other workers; one that is dead, slow (PATIENCE_S) or knows no such kind is left out."""
        if self._path is None:
            return []
        question = json.dumps({"kind": kind, "argument": argument}).encode() + b"\n"
        others = [path for path in sorted(self._path.parent.glob(f"*{_SUFFIX}")) if path != self._path]
        answers = await asyncio.gather(*(_ask(path, question) for path in others))
        return [answer for found in answers for answer in found]

    async def _on_question(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            question = json.loads(await reader.readline())
            answer = self._answers[question["kind"]](question["argument"])
            if inspect.isawaitable(answer):
                answer = await answer
            writer.write(json.dumps([answer]).encode())
            await writer.drain()
        except ConnectionError:
            pass  # who asked has given up
        except Exception:
            # Without an answer the asker leaves this worker out; the reason is known only here.
            _logger.exception("A question of another worker could not be answered")
        finally:
            self._open.discard(task)
            writer.close()


def private_directory() -> Path:
    """A new directory for the workers' sockets, for this user alone. Raises OSError."""
    try:
        return Path(tempfile.mkdtemp(prefix="gomodel-"))
    except OSError:
        # Writable also where a container's file system is not.
        return Path(tempfile.mkdtemp(prefix="gomodel-", dir="/dev/shm"))


async def _ask(path: Path, question: bytes) -> list[Any]:
    """The answer as a list of one, or an empty one."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(question)
                pieces = []
                while piece := await reader.read(_READ_BYTES):
                    pieces.append(piece)
            finally:
                writer.transport.abort()
        answer = json.loads(b"".join(pieces))
    except (OSError, TimeoutError, ValueError) as error:
        _logger.debug("Worker %s did not answer: %s", path.stem, type(error).__name__)
        return []
    return list(answer)


process = Peers()
register = process.register
ask_peers = process.ask
