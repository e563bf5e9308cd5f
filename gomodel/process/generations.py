"""The release before a gateway of several workers and the one after it, as its supervisor hears them.

Decides what each is told and when: numbers, so that no counter falls, and orders to end. Waits for nobody.
"""

import selectors
from collections.abc import Callable
from typing import Any

from ..config.settings import Config
from ..host.listeners import Listener
from ..operations.metrics import lasting
from .elders import Elders
from .handover import Between, Taken
from .orders import Line, Message
from .successor import Successor
from .switchboard import Switchboard


class Peer:
    """One of the two, for a selector: its line, and what hears its messages."""

    def __init__(self, line: Between, hear: Callable[[Message], object], lost: Callable[[], object]) -> None:
        self.line: Line | None = line
        self.hear = hear
        self.lost = lost

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Let the selector tell of what can be read, and written where something waits."""
        if self.line is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.line.waiting else 0)
            selector.modify(self.line, events, self)


class Elder:
    """The release that this one took over from, as a member of the hub, which asks it for numbers alone."""

    def __init__(self, line: Between) -> None:
        self.line = line

    @property
    def waiting(self) -> int:
        """Bytes that it has not read."""
        return self.line.waiting

    def send(self, *message: Any) -> None:
        """A question of the hub's."""
        _, number, *_ = message
        self.line.send("question", number)


class Younger:
    """The release that takes over, as one that asks the hub."""

    waiting = 0

    def __init__(self, line: Between) -> None:
        self._line = line

    def send(self, *message: Any) -> None:
        """The hub's answer."""
        _, number, answers = message
        self._line.send("answer", number, lasting(answers))


class Generations:
    """Those of one supervisor; `serve` what they say, in its `selector`."""

    def __init__(self, selector: selectors.BaseSelector, taken: Taken | None, switchboard: Switchboard) -> None:
        self.successor = Successor()
        self._selector = selector
        self._switchboard = switchboard
        self._taken = taken
        self._elder: Elder | None = None
        self._elders = Elders() if taken is None else taken.elders
        self._going: Callable[[], object] = _nothing
        self._peers: list[Peer] = []

    @property
    def awaited(self) -> bool:
        """Whether the release before this one still takes the clients, until `ready`."""
        return self._taken is not None

    @property
    def followed(self) -> bool:
        """Whether a release before this one still runs that ends with it."""
        return self._elder is not None or (self._taken is None and bool(self._elders.known))

    def ready(self, going: Callable[[], object]) -> None:
        """This one takes clients; `going` is called when the one before takes none any more."""
        if self._taken is not None:
            line = self._taken.line
            self._elder = Elder(line)
            self._going = going
            self._switchboard.follow(self._elder)
            elder = self._elder
            self._add(Peer(line, lambda message: self._hear_elder(elder, message), lambda: self._lost_elder(elder)))
            for fd in self._elders.known:
                self._selector.register(fd, selectors.EVENT_READ, self._elders)
            self._taken.ready()
            self._taken = None

    def begin(
        self,
        listeners: list[Listener],
        config: Config,
        hear: Callable[[Message], object],
        *,
        activated: bool,
    ) -> bool:
        """Start a new release; `hear` hears what it says but for its questions. Whether there is a process."""
        line = self.successor.start(listeners, config, activated=activated, elders=self._elders)
        if line is not None:
            younger = Younger(line)

            def answer(message: Message) -> None:
                if message[0] == "question":
                    self._switchboard.ask(younger, message[1])
                else:
                    hear(message)

            self._add(Peer(line, answer, _nothing))
        return line is not None

    def order(self, order: str) -> None:
        """Pass on to the release before this one that the gateway is to end: "drain" or "abort"."""
        if self._elder is not None:
            self._elder.line.send(order)
        elif self._taken is None:
            self._elders.order(order)

    def ended(self, fd: int) -> None:
        """One of the releases before this one is no more: the selector tells of its process."""
        self._selector.unregister(fd)
        self._elders.forget(fd)

    def watch(self) -> None:
        """Before the selector is asked."""
        for peer in self._peers:
            peer.watch(self._selector)

    def heard(self, peer: Peer, *, writable: bool) -> None:
        """The selector tells of one of them."""
        line = peer.line
        if line is None:
            return
        if writable:
            line.flush()
        for message in line.receive():
            peer.hear(message)
        if not line.open:
            self.hang_up(peer)
            peer.lost()

    def hang_up(self, peer: Peer) -> None:
        """Hear no more of one."""
        line, peer.line = peer.line, None
        if line is not None:
            self._peers.remove(peer)
            self._selector.unregister(line)
            line.close()

    def failed(self, pid: int, status: int) -> bool:
        """A process is gone; whether it was the new release, which does not come."""
        if not self.successor.is_it(pid):
            return False
        if not self.successor.serves:
            for peer in self._peers[:]:
                if peer.line is self.successor.line:
                    self.hang_up(peer)
        return self.successor.ended(pid, status)

    def release(self) -> None:
        """In a child, or at the end: forget them, without a word."""
        if self._taken is not None:
            self._taken.line.close()
        self._elders.close()
        for peer in self._peers:
            if peer.line is not None:
                peer.line.close()

    def _add(self, peer: Peer) -> None:
        assert peer.line is not None
        self._peers.append(peer)
        self._selector.register(peer.line, selectors.EVENT_READ, peer)

    def _hear_elder(self, elder: Elder, message: Message) -> None:
        match message:
            case ("go" | "numbers", numbers):
                self._switchboard.heard(elder, numbers)
                self._go()
            case ("answer", number, numbers):
                self._switchboard.answered(elder, number, numbers)

    def _lost_elder(self, elder: Elder) -> None:
        self._switchboard.departed(elder)
        self._elder = None
        self._elders.lost()
        self._go()

    def _go(self) -> None:
        going, self._going = self._going, _nothing
        going()


def _nothing() -> None:
    pass
