"""The rest of a request's body on its way to the instance, at the pace of whoever is slower.

Sends what was not here when the request went out, in the turn of the loop in which it comes, beside the answer, which
may come before the upload ends. Decides whose fault it is when the upload fails. Knows nothing of the answer.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Protocol

from ..downstream.body import RequestBody
from ..errors import BadRequest, BodyTooLarge, ClientError, GatewayError, InternalError
from ..host.kernel import confirmed
from ..http1.writers import Chunked
from ..telemetry.record import Phase, Record
from ..upstream.channel import Channel, Sink
from .outgoing import Outgoing

# How soon it is looked again whether the instance has taken anything.
_LOOK_S = 0.01

_logger = logging.getLogger("gomodel")


class Sender(Sink, Protocol):
    """Whose request it is: who takes the answer."""

    def on_instances_turn(self) -> None: ...  # the instance has to read, or to answer
    def on_upload_failure(self, error: GatewayError) -> None: ...


class UploadFlow:
    """One upload that goes on beside the answer; `go_on` is called whenever either side may be ready for more."""

    __slots__ = (
        "_body",
        "_borrows",
        "_channel",
        "_descriptor",
        "_look",
        "_outgoing",
        "_over",
        "_record",
        "_sender",
        "_wary",
        "_writer",
    )

    def __init__(self, sender: Sender, channel: Channel, outgoing: Outgoing, body: RequestBody, record: Record) -> None:
        """`outgoing` keeps what is sent for as long as it can be sent again."""
        self._sender = sender
        self._channel = channel
        self._outgoing = outgoing
        self._body = body
        self._record = record
        self._writer = Chunked() if outgoing.request.fields.chunked else None
        self._over = False
        # Of a body that may be any length not more is sent than can be sent again, while it may be to nobody: an idle
        # connection may have been closed.
        self._wary = channel.reused and outgoing.request.fields.content_length is None
        self._look: asyncio.TimerHandle | None = None
        self._borrows = False  # what comes is sent from where it was read
        self._descriptor = -1  # of the instance's socket, where it is written to past its transport

    def start(self) -> None:
        """Begin, once the head and what was held are written."""
        self._body.listen(self.go_on)
        self.go_on()

    def stop(self) -> None:
        """Take no more of it."""
        if not self._over:
            self._over = True
            self._body.listen(None)
            if self._look is not None:
                self._look.cancel()

    def go_on(self) -> None:
        """Send what is there as far as the instance takes it, then ask for more."""
        if self._over:
            return
        try:
            self._send()
        except ClientError as exc:
            if isinstance(exc, (BadRequest, BodyTooLarge)):
                self._record.blame("client", exc.code)
            self._fail(exc)
        except ConnectionError:
            self.stop()  # the client has left, and its request is being cancelled
        except Exception:
            _logger.exception("The upload of request %s failed in the gateway", self._record.id)
            self._fail(InternalError())

    def _send(self) -> None:
        channel, sender, body, writer = self._channel, self._sender, self._body, self._writer
        transport = channel.transport
        if transport is None or channel.sink is not sender:
            self.stop()  # the channel tells what became of it
            return
        if channel.writing_paused:
            return
        if self._wary and self._outgoing.too_much(body.waiting_bytes):
            if not confirmed(transport, self._outgoing.kept_bytes):
                if self._look is None:
                    sender.on_instances_turn()
                    self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._look_again)
                return
            self._wary = False
        pieces = body.take()
        last = body.complete and not (pieces and body.spooled)
        if writer is not None:
            pieces = [part for piece in pieces for part in writer.parts(piece)]
            if last:
                pieces.append(writer.write(b"", True))
        if pieces:
            self._outgoing.keep(pieces)
            if len(pieces) == 1:
                transport.write(pieces[0])
            else:
                transport.writelines(pieces)
        if last:
            self._outgoing.end()
            self.stop()
            channel.sent = True
            sender.on_instances_turn()
        elif channel.writing_paused:
            sender.on_instances_turn()
        elif pieces and body.spooled:
            asyncio.get_running_loop().call_soon(self.go_on)  # others have their turn
        else:
            if not (self._borrows or self._outgoing.whole):
                self._borrow(transport)
            body.ask()

    def _borrow(self, transport: asyncio.Transport) -> None:
        """What comes from now on is not kept: have it lent, and send it from where it was read to."""
        self._borrows = True
        if self._outgoing.request.digest is None:
            if transport.get_extra_info("sslcontext") is None:
                self._descriptor = transport.get_extra_info("socket").fileno()
            self._body.lend(self._pass_on)

    def _pass_on(self, pieces: list[memoryview]) -> bool:
        """Send what came before its buffer is read into again; False where it has to wait."""
        channel, transport, body = self._channel, self._channel.transport, self._body
        if (
            transport is None
            or channel.sink is not self._sender
            or channel.writing_paused
            or self._record.phase is not Phase.REQUEST
            or body.waiting_bytes
            or transport.get_write_buffer_size()
            or transport.is_closing()
        ):
            return False
        size = sum(map(len, pieces))
        if not body.passes(size):
            return False
        parts: Sequence[bytes | memoryview] = pieces if self._writer is None else self._writer.around(pieces, size)
        try:
            sent = os.writev(self._descriptor, parts) if self._descriptor >= 0 else 0
        except OSError:
            sent = 0  # the transport comes upon it as well
        if sent < size if parts is pieces else sent < sum(map(len, parts)):
            transport.write(b"".join(parts)[sent:])
            if channel.writing_paused:
                self._sender.on_instances_turn()
        return True

    def _look_again(self) -> None:
        self._look = None
        self.go_on()

    def _fail(self, error: GatewayError) -> None:
        self.stop()
        self._sender.on_upload_failure(error)
