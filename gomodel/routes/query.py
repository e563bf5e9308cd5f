"""The query of an administrative route: which parameters each one takes, each of them once at most. Pure.

Decides what is refused before a handler sees it: a parameter that the route does not know, which would be passed over
in silence as if it had been heeded, and one that is given twice. What a value may be is for its handler to say.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qsl

from ..errors import InvalidValue
from .route import Kind, Route

_ADMIN = frozenset(kind for kind in Kind if kind.name.startswith("ADMIN_"))
# By the route's template; those that are not here take none.
_TAKEN: Mapping[str, tuple[str, ...]] = {
    "/admin/usage": ("by", "from", "to", "format"),
    "/admin/history": ("window",),
    "/admin/instances/{name}/drain": ("replica",),
    "/admin/instances/{name}/resume": ("replica",),
}
_MOST = 16
_SHOWN = 64


def parameters(target: str) -> dict[str, str]:
    """What the query of a target that was not refused says, decoded; a name alone has the value ""."""
    return dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))


def with_query(route: Route, query: str) -> Route:
    """The route, or its refusal where it is an administrative one that does not take this query; contract section 8."""
    if len(query) < 2 or route.kind not in _ADMIN:  # none, or a "?" alone
        return route
    taken = _TAKEN.get(route.template, ())
    try:
        names = [name for name, _ in parse_qsl(query[1:], keep_blank_values=True, max_num_fields=_MOST)]
    except ValueError:
        return _refused(route, None, f"The query has more than {_MOST} parameters.")
    for at, name in enumerate(names):
        if name not in taken:
            known = f"it takes {', '.join(taken)}" if taken else "it takes none"
            return _refused(route, name, f"{name[:_SHOWN]!r} is no parameter of {route.template}; {known}.")
        if name in names[:at]:
            return _refused(route, name, f"{name!r} is given more than once.")
    return route


def _refused(route: Route, name: str | None, message: str) -> Route:
    param = None if name is None else name[:_SHOWN]
    return replace(route, refusal=partial(InvalidValue, param, message, code="invalid_parameter"))
