"""Carries the requests of callers whose keys are told apart: to what their keys are good for, and nowhere else.

Decides which of the servers that could take a request its caller may ask (contract section 9), and adds what the
caller's entry says. Nothing of it runs where there is no keys file.
"""

from collections.abc import Coroutine
from typing import Any

from ..errors import NotAllowed
from ..routes.route import Kind
from .forward import Forwarder
from .outgoing import Outgoing

# Whoever knows the id of a stored response has made it or was told; what a server says of itself is nobody's secret.
_OF_NO_MODEL = frozenset({Kind.RESPONSES, Kind.SERVER})


class PermittedForwarder(Forwarder):
    """A Forwarder that looks at the caller first. Raises NotAllowed besides."""

    def forward(self, outgoing: Outgoing) -> Coroutine[Any, Any, None]:
        """As Forwarder."""
        permit(outgoing)
        return self.go_on(outgoing)

    def _enter(self, outgoing: Outgoing) -> bool:
        if outgoing.request.fields.caller.alters:
            permit(outgoing)
        return super()._enter(outgoing)


def permit(outgoing: Outgoing) -> None:
    """Leave those instances that the caller may ask for the model. Raises NotAllowed when it is none.

    What names no model, and a session whose events may name another one, takes the right to all of an instance.
    """
    request, choice = outgoing.request, outgoing.choice
    caller = request.caller
    kind = request.route.kind
    if caller.entry.models and kind not in _OF_NO_MODEL:
        model = "" if kind is Kind.REALTIME else choice.model
        if not choice.candidates and choice.instance is not None:
            allowed = caller.allows(choice.instance.name, model)  # its first replica is still to be found
        else:
            choice.candidates = [each for each in choice.candidates if caller.allows(each.name, model)]
            allowed = bool(choice.candidates)
        if not allowed:
            raise _refused(caller.name, model)
    if not request.record.batch:  # whose lines come with the priority of batches
        outgoing.added += caller.added_fields


def _refused(name: str, model: str) -> NotAllowed:
    listed = "GET /v1/models lists those that it is good for"
    if model:
        shown = model if len(model) <= 200 else model[:200] + "..."
        error = NotAllowed(f"The key '{name}' is not good for the model {shown!r}; {listed}.")
        error.param = "model"
        return error
    return NotAllowed(f"The key '{name}' is good for some models only, and this request could reach others; {listed}.")
