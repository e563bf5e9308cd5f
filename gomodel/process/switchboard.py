"""What workers of one gateway say to each other by way of their supervisor: questions, numbers, and slots of servers.

Decides which of these a message is about, and what is over with a worker that is gone. Waits for nobody.
"""

from time import monotonic

from ..balancing import rotation
from ..operations.metrics import lasting
from ..operations.siblings import METRICS, PLACES, ROTATION
from ..telemetry.tally import Numbers, Tally
from .hub import Hub, Member
from .orders import Line, Message
from .slot_desk import SlotDesk
from .workers import Worker


class Switchboard:
    """The supervisor's; times are time.monotonic."""

    def __init__(self, queue_limit: int) -> None:
        self._hub = Hub(Tally(lasting))
        self._desk = SlotDesk(queue_limit)

    @property
    def due(self) -> float:
        """When `expire` has something to do."""
        return self._hub.due

    def limit(self, queue_limit: int) -> None:
        """Let so many wait for a slot from now on."""
        self._desk.queue.limit = queue_limit

    def expire(self, now: float) -> None:
        """Give up on whoever has not answered in time."""
        self._hub.expire(now)

    def join(self, line: Line) -> None:
        """A worker can be asked from now on."""
        self._hub.join(line)

    def leave(self, line: Line) -> None:
        """A worker hears nothing any more."""
        self._hub.leave(line)

    def depart(self, worker: Worker) -> None:
        """A worker is gone, and its connections are closed."""
        self._desk.depart(worker)

    def follow(self, elder: Member) -> None:
        """A release that this one took over from counts as well."""
        self._hub.follow(elder)

    def heard(self, elder: Member, numbers: Numbers) -> None:
        """What that release has counted, before anybody asks."""
        self._hub.report(elder, numbers)

    def answered(self, elder: Member, number: int, numbers: Numbers) -> None:
        """It answers a question of the hub's."""
        self._hub.answer(elder, number, METRICS, [numbers])

    def departed(self, elder: Member) -> None:
        """It is gone; what it has counted stays."""
        self._hub.leave(elder)

    def ask(self, asker: Member, number: int) -> None:
        """A release that takes over asks what was counted here."""
        self._hub.ask(asker, number, METRICS, {}, monotonic())

    def numbers(self) -> Numbers:
        """What is known of what was counted here, and before."""
        return lasting(self._hub.known())

    def take(self, worker: Worker, line: Line, message: Message, now: float) -> None:
        """Act on what a worker says to the others."""
        match message:
            case ("numbers", numbers):
                self._hub.report(line, numbers)
            case ("slot", name, key, replicas, weight, most, lent):
                self._desk.come(worker, name, key, replicas, weight, most, lent)
            case ("lent",):
                self._desk.renewed()
            case ("slot_back", name):
                self._desk.back(worker, name)
            case ("ask", number, kind, _) if kind == PLACES:
                line.send("answers", number, self._desk.order())
            case ("ask", number, kind, argument):
                if kind == ROTATION:
                    rotation.shared.put(*argument)
                self._hub.ask(line, number, kind, argument, now)
            case ("answer", number, kind, answers):
                self._hub.answer(line, number, kind, answers)
