"""Messages between the supervisor and a worker: how they are framed on the stream socket that joins the two.

Decides the framing and that the supervisor never waits for a worker that does not read. A message is a tuple whose
first member is its kind; both ends are forks of one process, so pickle carries it. From the supervisor:
("take_clients",), to those that wait for it, ("drain",), ("abort",), ("report",), ("reload", Config), ("keys", News,
pickled), ("read", place), ("give_back", place), ("leave",),
("hand_over", names of the sockets that the new release leaves alone),
("question", number, kind, argument), ("answers", number, list), ("slot", name, replica or None, Refused or None). From
a worker: ("ready",), ("leaving",), ("beat",), ("numbers", snapshot), ("ask", number, kind, argument), ("answer",
number, kind, list of one or none), ("slot", name, key, replicas, weight, most, lent), ("slot_back", name), ("lent",).

Listening sockets go over a second socket, ahead of the ("read", place) that they are for.
"""

import errno
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any

HEADER_BYTES = 4
_READ_BYTES = 1 << 16
# An address each, of which a name may have several.
_MOST_SOCKETS = 64

Message = tuple[Any, ...]


def encoded(message: Message) -> bytes:
    """A message as it travels."""
    data = pickle.dumps(message)
    return len(data).to_bytes(HEADER_BYTES, "big") + data


def received_sockets(passing: socket.socket) -> list[socket.socket]:
    """The sockets that a ("read", place), which was just read, is for. Raises OSError."""
    said, descriptors, _, _ = socket.recv_fds(passing, 1, _MOST_SOCKETS)
    found = [socket.socket(fileno=each) for each in descriptors]
    for each in found:
        each.set_inheritable(False)
    if said != bytes((len(found),)):
        for each in found:
            each.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return found


class Line:
    """The supervisor's end of the socket to one worker, which it owns. Never blocks, never raises for a lost worker."""

    encoded = staticmethod(encoded)
    decoded: Callable[[bytes], Message] = staticmethod(pickle.loads)

    def __init__(self, sock: socket.socket, passing: socket.socket | None = None) -> None:
        """`passing`, of datagrams, is for sockets."""
        sock.setblocking(False)
        if passing is not None:
            passing.setblocking(False)  # Python's send_fds takes no flag for it
        self._sock = sock
        self._passing = passing
        self._received = bytearray()
        self._unsent = bytearray()
        self.open = True  # until the worker is found to have closed its end

    def fileno(self) -> int:
        """For a selector."""
        return self._sock.fileno()

    @property
    def waiting(self) -> int:
        """Bytes that the kernel has not taken yet; `flush` when the socket is writable."""
        return len(self._unsent)

    def send(self, *message: Any) -> None:
        """Send as much of a message as the kernel takes, and keep the rest."""
        self._unsent += self.encoded(message)
        self.flush()

    def flush(self) -> None:
        """Send what the kernel takes now of what waits."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is read no more; the end of the other direction says so

    def lend(self, place: int, sockets: Sequence[socket.socket]) -> bool:
        """Let the worker read what waits in `sockets`; False where it cannot be told now."""
        assert self._passing is not None
        try:
            descriptors = [each.fileno() for each in sockets]
            socket.send_fds(self._passing, [bytes((len(descriptors),))], descriptors)
        except OSError:
            return False
        self.send("read", place)
        return True

    def receive(self) -> list[Message]:
        """Every whole message that has arrived; half of one, of a worker that died over it, is nobody's."""
        try:
            while piece := self._sock.recv(_READ_BYTES):
                self._received += piece
            self.open = False
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        messages = []
        at, received = 0, self._received
        while len(received) - at >= HEADER_BYTES:
            end = at + HEADER_BYTES + int.from_bytes(received[at : at + HEADER_BYTES], "big")
            if len(received) < end:
                break
            messages.append(self.decoded(bytes(received[at + HEADER_BYTES : end])))
            at = end
        del received[:at]
        return messages

    def close(self) -> None:
        """Give the socket back."""
        self.open = False
        self._sock.close()
        if self._passing is not None:
            self._passing.close()
