"""`gomodel batch FILE --out RESULT`: a file of requests run by a gateway, as its client, with a bar.

Decides what is left to do: lines that RESULT has are done, and a batch that is noted beside it is gone on with. So the
same command again resumes, whatever ended the last one. Takes the files of `vllm run-batch`.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout, FormData

from .progress_bar import progress_bar
from .validation import read_lines

OK, FAILED, INTERRUPTED = 0, 1, 130
_ENDS = frozenset({"completed", "failed", "expired", "cancelled"})
_POLL_S = 1.0
_LINE_BYTES = 1 << 30
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


def batch(asked: Asked) -> int:
    """Do it; the exit status: 0 when each line has been answered with success."""
    try:
        return asyncio.run(_Batch(asked).run())
    except Refused as refused:
        print(f"gomodel batch: {refused}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"gomodel batch: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return FAILED


class _Batch:
    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._note = asked.out.with_name(asked.out.name + ".batch")
        self._session: ClientSession
        self._stop = asyncio.Event()

    async def run(self) -> int:
        headers = {"Authorization": f"Bearer {self._asked.key}"} if self._asked.key else {}
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        async with ClientSession(headers=headers, timeout=ClientTimeout(total=None, sock_connect=10)) as self._session:
            batch_id = self._noted()
            if batch_id is not None:
                await self._see_through(batch_id)
            if not self._stop.is_set() and (left := self._left()):
                await self._see_through(await self._begin(left))
        return self._summary()

    def _interrupted(self) -> None:
        if self._stop.is_set():
            print("\nThe batch goes on at the gateway; the same command again waits for it.", file=sys.stderr)
            os._exit(INTERRUPTED)
        self._stop.set()

    def _noted(self) -> str | None:
        try:
            return str(json.loads(self._note.read_bytes())["batch"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{self._note} is not what this command has written; remove it") from None

    def _done(self) -> dict[str, int]:
        """The status of each line that the result has; half a line at its end is cut off."""
        try:
            file = open(self._asked.out, "r+b")  # noqa: SIM115
        except FileNotFoundError:
            return {}
        found = {}
        with file:
            at = 0
            for line in read_lines(file, _LINE_BYTES):
                if not line.endswith(b"\n"):
                    file.truncate(at)
                    break
                at += len(line)
                said = json.loads(line)
                found[said["custom_id"]] = said["response"]["status_code"]
        return found

    def _left(self) -> list[bytes]:
        """The lines that are still to be run."""
        done = self._done()
        with open(self._asked.file, "rb") as file:
            return [line for line in read_lines(file, _LINE_BYTES) if line.strip() and _custom_id(line) not in done]

    async def _begin(self, lines: list[bytes]) -> str:
        form = FormData()
        form.add_field("purpose", "batch")
        content = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
        form.add_field("file", content, filename=self._asked.file.name, content_type="application/jsonl")
        file = await self._call("POST", "/files", data=form)
        body = {"input_file_id": file["id"], "endpoint": _endpoint(lines[0]), "completion_window": self._asked.window}
        made = await self._call("POST", "/batches", json=body)
        _write(self._note, json.dumps({"batch": made["id"], "gateway": self._asked.url}).encode())
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
            self._note.unlink(missing_ok=True)
            problems = [
                (f"line {each['line']}: " if each["line"] else "") + each["message"] for each in found["errors"]["data"]
            ]
            raise Refused("the file cannot be run:\n  " + "\n  ".join(problems))
        await self._take(found)
        self._note.unlink(missing_ok=True)
        for name in ("output_file_id", "error_file_id", "input_file_id"):
            if found[name] is not None:
                await self._call("DELETE", f"/files/{found[name]}", accept=(404,))

    async def _rest(self, cancelled: bool) -> None:
        if cancelled:
            await asyncio.sleep(_POLL_S)
            return
        try:
            async with asyncio.timeout(_POLL_S):
                await self._stop.wait()
        except TimeoutError:
            pass

    async def _take(self, found: dict[str, Any]) -> None:
        """Append the lines that have answers to the result, each once."""
        done = self._done()
        with open(self._asked.out, "ab") as out:  # noqa: ASYNC230 - a command waits for nothing else
            for name in ("output_file_id", "error_file_id"):
                if found[name] is None:
                    continue
                async with self._session.get(f"{self._asked.url}/files/{found[name]}/content") as response:
                    if response.status != 200:
                        raise Refused(f"the results cannot be read: status {response.status}")
                    rest = b""
                    async for piece in response.content.iter_any():
                        *lines, rest = (rest + piece).split(b"\n")
                        for line in lines:
                            said = json.loads(line)
                            if said["response"] is not None and said["custom_id"] not in done:
                                out.write(line + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def _summary(self) -> int:
        done = self._done()
        with open(self._asked.file, "rb") as file:
            total = sum(1 for line in read_lines(file, _LINE_BYTES) if line.strip())
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
                    if response.status < 500 or not tries:
                        raise Refused(_message(response.status, body))
            except (TimeoutError, ClientError) as error:
                if not tries:
                    raise Refused(f"{self._asked.url} cannot be reached: {type(error).__name__}") from None
            await asyncio.sleep(_AGAIN_S)


def _message(status: int, body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answers with status {status}"


def _custom_id(line: bytes) -> Any:
    try:
        return json.loads(line)["custom_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # the gateway says what is wrong with it


def _endpoint(line: bytes) -> Any:
    try:
        return json.loads(line)["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("the first line is no request of a batch: it needs custom_id, method, url and body") from None


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
