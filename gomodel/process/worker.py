"""One worker process: serves as its supervisor orders.

Decides how orders are read, what a signal sent to a worker alone means, and that the supervisor hears that the event
loop turns. Knows nothing of the other workers. Losing the supervisor is an order to end; before clients are taken it is
the end.
"""

import asyncio
import logging
import pickle
import socket
from collections.abc import Coroutine
from typing import Any

from ..config.settings import Config
from ..host import parent_death
from ..host.listeners import Listener
from ..host.signals import STOPPING, Signals
from ..operations import siblings
from ..telemetry.bugs import reported
from ..upstream.root_certificates import missing, provide
from .acceptor import everybody
from .ending import CUT_SHORT
from .orders import HEADER_BYTES, Message, encoded, received_sockets
from .serving import Serving
from .workers import Ends

_logger = logging.getLogger("gomodel")

# For the supervisor to read the last numbers.
_FAREWELL_S = 1.0


async def serve(
    config: Config,
    listeners: list[Listener],
    ends: Ends,
    signals: Signals,
    beat_s: float,
    *,
    batching: bool = False,
    waiting: bool = False,
) -> int:
    """Serve on `listeners` until the supervisor, at the other ends of `ends`, says otherwise; the exit status.

    Every `beat_s` it is told that the loop turns. `batching` and `waiting` as `Serving`. Raises ListenError.
    """
    serving = Serving(config, batching=batching, waiting=waiting)
    loop = asyncio.get_running_loop()

    def deliver(number: int) -> None:
        # The supervisor decides; a worker told alone to end makes place for a fresh one, when another reads its queue.
        if number in STOPPING:
            send("leaving")

    reader, writer = await asyncio.open_connection(sock=ends.orders)
    ends.sockets.setblocking(False)
    tasks: list[asyncio.Task[None]] = []

    def send(*message: Any) -> None:
        writer.write(encoded(message))

    def begin(what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        task.add_done_callback(reported("Talking with the supervisor"))
        tasks.append(task)

    def ready() -> None:
        if not waiting:
            parent_death.outlive()
        signals.attach(loop, deliver)
        send("ready")
        begin(_obey(reader, ends.sockets, serving))

    begin(_beat(writer, beat_s))
    siblings.process.join(send)
    serving.gateway.slots.join(send)
    try:
        await serving.run(listeners, ready)
    finally:
        siblings.process.leave()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await _hang_up(writer)
        ends.sockets.close()
    signals.detach()
    return CUT_SHORT if serving.cut_short else 0


async def _beat(writer: asyncio.StreamWriter, beat_s: float) -> None:
    beat = encoded(("beat",))
    while not writer.is_closing():
        writer.write(beat)
        await asyncio.sleep(beat_s)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close the line when all is said."""
    writer.close()
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


async def _obey(reader: asyncio.StreamReader, sockets: socket.socket, serving: Serving) -> None:
    while True:
        try:
            length = int.from_bytes(await reader.readexactly(HEADER_BYTES), "big")
            message = pickle.loads(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            if not serving.draining:
                _logger.error("The supervisor is gone; ending")
            siblings.process.lost()
            serving.gateway.slots.lost()
            serving.drain()
            return
        if message[0] == "reload" and missing(message[1]):
            await asyncio.to_thread(provide, message[1])
        if message[0] == "keys":  # thousands of them take longer than a stream should wait
            message = "keys", await asyncio.to_thread(pickle.loads, message[1])
        match message:
            case ("read", place):
                await _read_for(place, sockets, serving)
            case ("give_back", place) if not serving.draining:
                await serving.gateway.give_back(place)
            case _:
                _follow(message, serving)


async def _read_for(place: int, sockets: socket.socket, serving: Serving) -> None:
    try:
        found = received_sockets(sockets)
    except OSError as error:  # no descriptor was left for them; their queue waits for its own worker
        _logger.error("The clients of worker %d have to wait for it: %s", place, error.strerror)
        return
    if serving.draining:
        for each in found:
            each.close()
    else:
        await serving.gateway.read_for(place, found)


def _follow(message: Message, serving: Serving) -> None:
    match message:
        case ("take_clients",):
            parent_death.outlive()
            serving.take_clients()
        case ("drain",):
            serving.drain()
        case ("leave",):
            serving.drain(everybody)
        case ("hand_over", left):
            serving.hand_over(lambda listener: listener.sock.getsockname() not in left)
        case ("abort",):
            serving.abort()
        case ("report",):
            serving.report()
        case ("reload", config) if not serving.draining:
            serving.reload(config)
        case ("keys", news) if not serving.draining:
            serving.gateway.take_keys(news.keys, broken=news.broken)
        case ("question", number, kind, argument):
            siblings.process.asked(number, kind, argument)
        case ("slot", name, replica, refused):
            serving.gateway.slots.settled(name, replica, refused)
        case ("answers", number, answers):
            siblings.process.answered(number, answers)
