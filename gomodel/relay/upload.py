"""The rest of a request's body on its way to the instance, at the pace of whoever is slower.

Sends what was not here when the request went out, in a task of its own, since the answer may come before the upload
ends. Decides whose fault it is when the upload fails. Knows nothing of the answer.
"""

import asyncio
import logging
from typing import Protocol

from ..downstream.body import Source
from ..errors import BadRequest, BodyTooLarge, ClientError, GatewayError, InternalError
from ..http1.writers import Chunked
from ..telemetry.record import Record
from ..upstream.channel import Channel, Sink

_logger = logging.getLogger("gomodel")


class Sender(Sink, Protocol):
    """Whose request it is: who takes the answer."""

    def on_instances_turn(self) -> None: ...  # the instance has to read, or to answer
    def on_upload_failure(self, error: GatewayError) -> None: ...


class UploadTask:
    """One upload that goes on beside the answer."""

    __slots__ = ("_body", "_channel", "_record", "_sender", "_task", "_writer")

    def __init__(self, sender: Sender, channel: Channel, body: Source, record: Record, *, chunked: bool) -> None:
        self._sender = sender
        self._channel = channel
        self._body = body
        self._record = record
        self._writer = Chunked() if chunked else None
        self._task = asyncio.get_running_loop().create_task(self._send())
        self._task.add_done_callback(self._over)

    async def stop(self) -> None:
        """Return when the task has ended; it is cancelled where it goes on."""
        # A wait, even for what is done, is a turn in which the client's connection may be lost and cancel the caller.
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _send(self) -> None:
        channel, sender, writer = self._channel, self._sender, self._writer
        try:
            while piece := await self._body.read():
                if channel.transport is None or channel.sink is not sender:
                    return
                channel.transport.write(writer.write(piece, False) if writer is not None else piece)
                if channel.writing_paused:
                    piece = b""  # over TLS another copy waits to be sent
                    sender.on_instances_turn()
                    await channel._drain_helper()
        except ClientError as exc:
            if isinstance(exc, (BadRequest, BodyTooLarge)):
                self._record.blame("client", exc.code)
            sender.on_upload_failure(exc)
            return
        except ConnectionError:
            return  # either side is lost: the channel tells what became of it, or the request is being cancelled
        if writer is not None and channel.transport is not None:
            channel.transport.write(writer.write(b"", True))
        if channel.sink is sender:
            channel.sent = True
            sender.on_instances_turn()

    def _over(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            _logger.error("The upload of request %s failed in the gateway", self._record.id, exc_info=task.exception())
            self._sender.on_upload_failure(InternalError())
