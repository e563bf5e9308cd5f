"""The listeners of a gateway of several workers, as its supervisor holds them.

Decides which sockets are shared by all workers and beside which each binds its own (SO_REUSEPORT).
"""

from ..config.settings import Config
from ..host.listeners import Listener, beside, bind


class SharedListeners:
    """`bind` once, then `of_worker` in each fork; `close` at the end."""

    def __init__(self) -> None:
        self.all: list[Listener] = []
        self._reserved: list[Listener] = []

    def bind(self, inherited: list[Listener], config: Config) -> None:
        """Take `inherited`, or bind what the configuration says. Raises ListenError."""
        self.all = inherited or bind(config, reuse_port=True)
        # Our own TCP sockets never listen: they keep the port while the workers bind theirs beside them.
        self._reserved = [each for each in self.all if each.port is not None and not inherited]

    def of_worker(self) -> list[Listener]:
        """What a worker listens on; to be called in its process. Raises ListenError."""
        for listener in self.all:
            listener.file = None  # the parent's to remove
        twins = [beside(each) for each in self._reserved]
        shared = [each for each in self.all if each not in self._reserved]
        for listener in self._reserved:
            listener.sock.close()
        return [*shared, *twins]

    def close(self) -> None:
        """Close them all."""
        for each in self.all:
            each.close()
