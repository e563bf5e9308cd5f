"""What the chain asks of a caller before a request goes on: a key, and the right to the route.

Decides which routes take more than any key (contract section 9): those of operators, and those that pass by unread.
"""

from collections.abc import Callable

from ..downstream.request import Request
from ..errors import NotAllowed, Unauthorized
from ..routes.passthrough import administers
from ..routes.route import Kind
from .caller import Caller
from .callers import Callers

# What stands below is for operators, whatever there will be.
_ADMIN = "/admin/"
# What goes to an instance counts against a caller's limits.
LIMITED = frozenset({Kind.INFERENCE, Kind.UNKNOWN, Kind.SERVER, Kind.RESPONSES, Kind.PASSTHROUGH, Kind.REALTIME})


def known_caller(callers: Callers) -> Callable[[Request], None]:
    """A check that lets in who presents a key of `callers` and may use the route; the request's caller is known then.

    Missing, wrong, expired and doubled keys read the same (contract section 2).
    """

    def check(request: Request) -> None:
        fields, route = request.fields, request.route
        if route.open:
            return
        fields.caller = caller = callers.find(fields.presented())
        if caller is None:
            raise Unauthorized
        entry = caller.entry
        if route.kind is Kind.PASSTHROUGH:
            if not entry.passthrough:
                raise NotAllowed(f"{_of(caller)} does not open /p/: passthrough = true in its entry would.")
            if not entry.admin and administers(("/v1" if route.below_base else "") + route.tail.partition("?")[0]):
                raise NotAllowed(f"{_of(caller)} administers no server: admin = true in its entry would let it.")
        elif route.template.startswith(_ADMIN):
            if not entry.admin:
                raise NotAllowed(f"{_of(caller)} is no operator's: admin = true in its entry would make it one.")
        elif route.kind is Kind.METRICS and not entry.metrics:
            raise NotAllowed(f"{_of(caller)} does not open the metrics: metrics = true in its entry would.")

    return check


def _of(caller: Caller) -> str:
    return f"The key '{caller.name}'"
