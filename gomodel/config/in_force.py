"""The configuration in force as an operator may see it: every variable, what it is set to, and no secret.

Decides what is a secret of a variable: a key, a password in a URL, the value of a field. Pure.
"""

import re
from collections.abc import Iterable, Mapping

from .instances import INSTANCE_VARIABLE
from .registry import SECTIONS
from .variable import FILE_SUFFIX, INSTANCE_PREFIX, Variable

# A user and a password before the host of a URL.
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_MASK = "(set)"
# Of an instance, fields that its requests get: their values may be keys.
_FIELDS = "HEADERS"

Row = tuple[str, str, str, bool]


def in_force(environ: Mapping[str, str]) -> tuple[Row, ...]:
    """For each variable its section, name, value (the default where it is not set) and whether it is set."""
    rows: list[Row] = []
    for section in SECTIONS:
        for variable in section.variables:
            names = [name for name in _names(variable, environ) if environ.get(name)]
            rows += [(section.title, name, _shown(variable, name, environ[name]), True) for name in names]
            if not any(name in names for name in variable.names):
                rows.append((section.title, variable.name, variable.default or variable.otherwise, False))
    return tuple(rows)


def _names(variable: Variable, environ: Mapping[str, str]) -> Iterable[str]:
    """Those under which it may be set: an instance's also with the name of each instance."""
    if variable.per_instance is None:
        return variable.names
    fields = [name.removeprefix(INSTANCE_PREFIX) for name in variable.names]
    found = [(name, INSTANCE_VARIABLE.fullmatch(name)) for name in sorted(environ)]
    return [name for name, match in found if match is not None and match["field"] in fields]


def _shown(variable: Variable, name: str, text: str) -> str:
    if variable.secret and not name.endswith(FILE_SUFFIX):
        return _MASK
    if variable.field == _FIELDS:
        names = [name.strip() for name, colon, _ in (each.partition(":") for each in text.split("|")) if colon]
        return " | ".join(f"{each}: {_MASK}" for each in names) or _MASK
    return _USER.sub(f"{_MASK}@", text)
