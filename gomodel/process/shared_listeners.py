"""The listeners of several workers, which their supervisor holds, so that no accept queue ends with a worker.

Decides which sockets are shared by all workers and which are one place's own. A TCP port has one for each place
(SO_REUSEPORT), among which the kernel divides the clients; a unix socket, and what systemd hands over, is shared.
"""

import socket

from ..config.settings import Config
from ..host.listeners import Listener, beside, bind, listen
from ..host.taken_over import TakenOver


class SharedListeners:
    """`bind` and `listen` once, then `of_worker` in each fork; `close` at the end. Places count from 0."""

    def __init__(self) -> None:
        self._shared: list[Listener] = []
        self._own: list[list[Listener]] = []  # by place

    @property
    def all(self) -> list[Listener]:
        """One of each address, or more."""
        return [*self._shared, *self._own[0]]

    def bind(self, inherited: list[Listener], config: Config, held: TakenOver) -> None:
        """Take `inherited`, or what the configuration says, from `held` or anew. Raises ListenError."""
        found = inherited or bind(config, reuse_port=True, held=held)
        divided = [each for each in found if each.port is not None and not inherited]
        self._shared = [each for each in found if each not in divided]
        self._own = [[] for _ in range(config.workers)]
        for address in dict.fromkeys(each.bound for each in divided):
            twins = [each for each in divided if each.bound == address]  # of another number of workers
            for index in range(max(config.workers, len(twins))):
                own = self._own[index % config.workers]  # closed with the others, also where one cannot be bound
                own.append(twins[index] if index < len(twins) else beside(twins[0]))

    def listen(self) -> None:
        """Let the kernel take clients: they wait for the workers, however long those take. Raises ListenError."""
        listen(self.everything)

    @property
    def everything(self) -> list[Listener]:
        """All of them."""
        return [*self._shared, *(each for own in self._own for each in own)]

    def own(self, place: int) -> list[socket.socket]:
        """The sockets that the worker of this place alone reads, for another to read as well."""
        return [each.sock for each in self._own[place]]

    def of_worker(self, place: int) -> list[Listener]:
        """What a worker listens on; to be called in its process."""
        for listener in self._shared:
            listener.file = None  # the parent's to remove
        for index, others in enumerate(self._own):
            if index != place:
                for each in others:
                    each.sock.close()
        return [*self._shared, *self._own[place]]

    def close(self) -> None:
        """Close them all; what workers still hold goes on to listen."""
        for each in self.everything:
            each.close()
