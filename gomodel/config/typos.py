"""Names that look like a variable of gomodel and are none, each with the one that was most likely meant.

Decides what deserves a warning. Never looks at a value but to tell what an orchestrator injects.
"""

import difflib
import re
from collections.abc import Collection

from .instances import INSTANCE_VARIABLE
from .reader import Reader
from .registry import OF_GOMODEL, OF_INSTANCES
from .variable import INSTANCE_PREFIX

_KNOWN = tuple(name for each in OF_GOMODEL for name in each.names)
# What Kubernetes injects for a Service called gomodel; nobody wrote it by hand.
_SERVICE_LINK = re.compile(r".*_SERVICE_(?:HOST|PORT(?:_.*)?)|.*_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_.*)?")
# What other gateways call these fields. Of vLLM's own variables only those of its image's build have such a name.
_MISNAMED_FIELD = re.compile(
    r"(VLLM_(?:.+?_)?)(?:((?:BASE_?|API_?)?UR[IL]S?|API_BASE|ENDPOINT)|API_?KEYS?|KEY)", re.IGNORECASE
)
# An instance's name or number behind the field instead of before it.
_MISPLACED_SUFFIX = re.compile(r"(VLLM_(?:.+_)?)(BASE_URL|API_KEY)_(.+)", re.IGNORECASE)
# How alike a name in a .env file must be to one that is known to be taken for it.
_ALIKE = 0.85
_SHOWN_NAMES = 10
# What programs of all kinds call theirs.
_OF_MANY = frozenset({"REDIS_URL"})


def warn_of_unknown_names(reader: Reader, ours: Collection[str]) -> None:
    """Name what looks like a variable of gomodel and is none, and what cannot be meant for anybody else.

    VLLM_ is vLLM's prefix, too: what does not look like a field of an instance is taken to be vLLM's own.
    """
    unread = []
    for name in sorted(reader.environ):
        if not reader.given(name) or name in _KNOWN or INSTANCE_VARIABLE.fullmatch(name):
            continue
        shown = ascii(name)[1:-1]
        if meant := _meant(name, reader.environ[name], near=name in ours):
            reader.warnings.append(f"{shown} is not a variable of gomodel; the nearest is {meant}")
        elif name in ours and not name.startswith(INSTANCE_PREFIX):
            unread.append(shown)
    if unread:
        more = f" and {len(unread) - _SHOWN_NAMES} more" if len(unread) > _SHOWN_NAMES else ""
        reader.warnings.append(f".env sets {', '.join(unread[:_SHOWN_NAMES])}{more}, which gomodel does not read")


def _meant(name: str, value: str, *, near: bool) -> str | None:
    """The variable that somebody who set `name` most likely meant, None when it looks like somebody else's.

    `near`: it was set for gomodel, so that less likeness is enough.
    """
    if _SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and "://" in value):
        return None
    upper = name.upper()
    if upper in _OF_MANY and not near:
        return None
    for guess in (upper, upper.removeprefix("GOMODEL_"), f"GOMODEL_{upper}"):
        if guess in _KNOWN or INSTANCE_VARIABLE.fullmatch(guess):
            return guess
    if misplaced := _MISPLACED_SUFFIX.fullmatch(upper):
        prefix, field, suffix = misplaced.groups()
        return f"{prefix}{field}" if suffix == "FILE" else f"{prefix}{suffix}_{field}"
    if not upper.startswith("VLLM_BUILD_") and (misnamed := _MISNAMED_FIELD.fullmatch(upper)):
        return f"{misnamed[1]}{'BASE_URL' if misnamed[2] else 'API_KEY'}"
    cutoff = 0.0 if name.startswith(("GOMODEL_", "CIRCUIT_BREAKER_")) else _ALIKE if near else 0.9
    candidates = (*_KNOWN, *(each.name for each in OF_INSTANCES)) if near else _KNOWN
    return next(iter(difflib.get_close_matches(upper, candidates, 1, cutoff)), None)
