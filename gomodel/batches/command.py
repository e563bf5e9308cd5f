"""`gomodel batch FILE --out RESULT`: a file of requests run by a gateway, as its client, with a bar.

Decides what is left to do: lines that RESULT has are done, and a batch that is noted beside it is gone on with. So the
same command again resumes, whatever ended the last one. Takes the files of `vllm run-batch`.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout, FormData

from .note import BadNote, Note
from .progress_bar import progress_bar
from .result_file import LINE_BYTES, ForeignFile, read_results, result_line
from .validation import read_lines

OK, FAILED, INTERRUPTED = 0, 1, 130
_ENDS = frozenset({"completed", "failed", "expired", "cancelled"})
_POLL_S = 1.0
# For a gateway that restarts.
_AGAIN_S = 2.0
_TRIES = 30


class Asked(NamedTuple):
    """What the command line says. `key` "" is none."""

    file: Path
    out: Path
    url: str
    key: str
    window: str


class Refused(Exception):
    """The gateway does not do it; the message is for whoever typed the command."""


class _Gone(Refused):
    """The gateway has no such batch."""


def batch(asked: Asked) -> int:
    """Do it; the exit status: 0 when each line has been answered with success."""
    try:
        path = asked.out.with_name(asked.out.name + ".batch")
        if any(other.exists() and asked.file.samefile(other) for other in (asked.out, path)):
            raise Refused(f"{asked.file} would be written over; name another file with --out")
        read_results(asked.out)
        with Note(path) as note:
            return asyncio.run(_Batch(asked, note).run())
    except (Refused, BadNote, ForeignFile) as refused:
        print(f"gomodel batch: {refused}", file=sys.stderr)
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""  # nothing names the file of a write that fails
        print(f"gomodel batch: {where}{error.strerror}", file=sys.stderr)
        return FAILED


class _Batch:
    def __init__(self, asked: Asked, note: Note) -> None:
        self._asked = asked
        self._note = note
        self._session: ClientSession
        self._stop = asyncio.Event()

    async def run(self) -> int:
        headers = {"Authorization": f"Bearer {self._asked.key}"} if self._asked.key else {}
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        async with ClientSession(headers=headers, timeout=ClientTimeout(total=None, sock_connect=10)) as self._session:
            if self._note.batch is not None:
                await self._go_on(self._note.batch)
            if not self._stop.is_set() and (left := self._left()):
                await self._see_through(await self._begin(left))
        return self._summary()

    def _interrupted(self) -> None:
        if self._stop.is_set():
            print("\nThe batch goes on at the gateway; the same command again waits for it.", file=sys.stderr)
            os._exit(INTERRUPTED)
        self._stop.set()

    async def _go_on(self, batch_id: str) -> None:
        """See the batch through that an earlier command has begun."""
        if self._note.gateway != self._asked.url:
            raise Refused(
                f"batch {batch_id} of an earlier command runs at {self._note.gateway}, not at {self._asked.url}: "
                f"give --url {self._note.gateway}, or remove {self._note.path} to leave it"
            )
        try:
            await self._see_through(batch_id)
        except _Gone:
            self._note.forget()
            print(f"The gateway has no batch {batch_id} any more: what is left is run anew.", file=sys.stderr)

    def _left(self) -> dict[int, bytes]:
        """The lines that are still to be run, by their numbers in the file."""
        done = read_results(self._asked.out)
        with open(self._asked.file, "rb") as file:
            lines = enumerate(read_lines(file, LINE_BYTES), 1)
            return {number: line for number, line in lines if line.strip() and _custom_id(line) not in done}

    async def _begin(self, lines: dict[int, bytes]) -> str:
        endpoint = _endpoint(*next(iter(lines.items())))
        form = FormData()
        form.add_field("purpose", "batch")
        content = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines.values())
        form.add_field("file", content, filename=self._asked.file.name, content_type="application/jsonl")
        file = await self._call("POST", "/files", data=form)
        body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": self._asked.window}
        try:
            made = await self._call("POST", "/batches", json=body)
        except Refused:
            await self._remove(file["id"])
            raise
        self._note.keep(str(made["id"]), self._asked.url)
        return str(made["id"])

    async def _see_through(self, batch_id: str) -> None:
        """Wait for the end of a batch and take what it brought."""
        cancelled = False
        with progress_bar(self._asked.file.name) as show:
            while True:
                found = await self._call("GET", f"/batches/{batch_id}", patient=True)
                counts = found["request_counts"]
                show(found["status_details"] if found.get("status_details") else found["status"], counts)
                if found["status"] in _ENDS:
                    break
                if self._stop.is_set() and not cancelled:
                    cancelled = True
                    await self._call("POST", f"/batches/{batch_id}/cancel", patient=True, accept=(400,))
                await self._rest(cancelled)
        if found["status"] == "failed":
            self._note.forget()
            await self._remove(found["input_file_id"])
            raise Refused("the file cannot be run:\n  " + "\n  ".join(self._problems(found["errors"]["data"])))
        await self._take(found)
        self._note.forget()
        await self._remove(*(found[name] for name in ("output_file_id", "error_file_id", "input_file_id")))

    def _problems(self, errors: list[dict[str, Any]]) -> list[str]:
        """What is wrong with the file, by its own lines: blank ones and those that are done were not sent."""
        numbers = dict(enumerate(self._left(), 1))
        return [
            (f"line {numbers[at]}: " if (at := each["line"]) in numbers else "") + each["message"] for each in errors
        ]

    async def _remove(self, *file_ids: str | None) -> None:
        """Remove files from the gateway; those that cannot be removed go with its FILE_TTL."""
        for file_id in filter(None, file_ids):
            with suppress(Refused):
                await self._call("DELETE", f"/files/{file_id}")

    async def _rest(self, cancelled: bool) -> None:
        if cancelled:
            await asyncio.sleep(_POLL_S)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self._stop.wait()

    async def _take(self, found: dict[str, Any]) -> None:
        """Append the lines that have answers to the result, each once."""
        done = read_results(self._asked.out)
        with open(self._asked.out, "ab") as out:  # noqa: ASYNC230 - a command waits for nothing else
            for name in ("output_file_id", "error_file_id"):
                if found[name] is None:
                    continue
                try:
                    await self._append(found[name], done, out)
                except (TimeoutError, ClientError, ValueError) as error:
                    raise Refused(f"the answers cannot be read: {type(error).__name__}; try again") from None
            out.flush()
            os.fsync(out.fileno())

    async def _append(self, file_id: str, done: dict[str, int], out: BinaryIO) -> None:
        async with self._session.get(f"{self._asked.url}/files/{file_id}/content") as response:
            if response.status != 200:
                raise Refused(f"the answers cannot be read: {_message(response.status, await response.read())}")
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    name, status = result_line(line)
                    if status is not None and name not in done:
                        out.write(line + b"\n")

    def _summary(self) -> int:
        done = read_results(self._asked.out)
        with open(self._asked.file, "rb") as file:
            total = sum(1 for line in read_lines(file, LINE_BYTES) if line.strip())
        failed = sum(not 200 <= status < 300 for status in done.values())
        print(f"{self._asked.out}: {len(done)} of {total} lines, {failed} of them without success", file=sys.stderr)
        if self._stop.is_set():
            print("The same command again goes on.", file=sys.stderr)
            return INTERRUPTED
        return FAILED if failed or len(done) < total else OK

    async def _call(
        self, method: str, path: str, *, patient: bool = False, accept: tuple[int, ...] = (), **kwargs: Any
    ) -> Any:
        """One call; `patient` ones are repeated while the gateway is away. Raises Refused."""
        tries = _TRIES if patient else 1
        while True:
            tries -= 1
            try:
                async with self._session.request(method, self._asked.url + path, **kwargs) as response:
                    body = await response.read()
                    if response.status == 200 or response.status in accept:
                        return json.loads(body)
                    if response.status == 404 and _message(404, body).startswith("No such Batch object"):
                        raise _Gone(_message(404, body))
                    if response.status < 500 or not tries:
                        raise Refused(_message(response.status, body))
            except (TimeoutError, ClientError) as error:
                if not tries:
                    raise Refused(f"{self._asked.url} cannot be reached: {type(error).__name__}") from None
            except ValueError:
                raise Refused(f"{self._asked.url} does not answer as gomodel does; is --url right?") from None
            await asyncio.sleep(_AGAIN_S)


def _message(status: int, body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answers with status {status}"


def _custom_id(line: bytes) -> Any:
    try:
        name = json.loads(line)["custom_id"]
        return name if type(name) is str else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # the gateway says what is wrong with it


def _endpoint(number: int, line: bytes) -> Any:
    try:
        return json.loads(line)["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(f"line {number} is no request of a batch: it needs custom_id, method, url and body") from None
