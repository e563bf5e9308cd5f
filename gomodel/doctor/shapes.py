"""What of two answers can be compared: their spelling, which fields they have, and values that repetition leaves alike.

Decides what is made up anew for each answer (ids, times, what was sampled), which no comparison may look at. Pure.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Made anew for each answer, or sampled: two runs without anything between differ in them.
_VOLATILE = frozenset(
    re.findall(
        r"\w+",
        "id created created_at request_id content text token tokens bytes token_ids logprob reasoning"
        " reasoning_content system_fingerprint",
    )
)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|[{}\[\],:]|\s+')
_REPEATED = re.compile(r"\b(S|N|B|null)(?:,\s*\1)+\b")


def spelling(text: str) -> str:
    """JSON with its values taken out: what is left are keys, their order, punctuation and blanks.

    Text that is no JSON stays as it is, so that it is compared whole.
    """
    at, parts = 0, []
    tokens = list(_TOKEN.finditer(text))
    for number, match in enumerate(tokens):
        if match.start() != at:
            return text
        at, token = match.end(), match[0]
        if token[0] == '"':
            behind = tokens[number + 1][0] if number + 1 < len(tokens) else ""
            parts.append(token if behind == ":" else "S")
        elif token[0] in "-0123456789":
            parts.append("N")
        else:
            parts.append("B" if token in ("true", "false") else token)
    return _REPEATED.sub(r"\1", "".join(parts)) if at == len(text) else text


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Each value that is no container, by its path; elements of a list share one, the last of them wins.

    A container that is empty counts as a value.
    """
    found: dict[str, Any] = {}
    if isinstance(value, dict) and value:
        for name, each in value.items():
            found |= leaves(each, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for each in value:
            found |= leaves(each, f"{path}[]")
    else:
        found[path] = value
    return found


def volatile(path: str) -> bool:
    """Whether the value at this path is not compared."""
    return not _VOLATILE.isdisjoint(path.replace("[]", "").split("."))


def differences(direct: Sequence[Any], through: Any, *, models: Iterable[str] = ()) -> list[str]:
    """What `through` has not, has more, or has another value of than each of `direct`, a sentence each.

    `models` are names of one model: a gateway may have its own for it.
    """
    names = frozenset(models)
    runs, there = [leaves(each) for each in direct], leaves(through)
    always = set.intersection(*(set(run) for run in runs))
    ever = set.union(*(set(run) for run in runs))
    found = []
    for path in sorted(always - set(there)):
        # A field that is null says nothing; some leave it out.
        if any(run[path] is not None for run in runs):
            found.append(f"{path} is missing")
    found += [f"{path} was added" for path in sorted(set(there) - ever) if there[path] is not None]
    for path in sorted(always & set(there)):
        value, values = there[path], [run[path] for run in runs]
        if volatile(path):
            if kind(value) not in {kind(each) for each in values}:
                found.append(f"{path} is {kind(value)} instead of {kind(values[0])}")
        elif all(each == values[0] for each in values) and value != values[0]:
            if path == "model" and value in names and values[0] in names:
                continue
            if isinstance(value, float) and isinstance(values[0], float):
                continue  # sums of floating point depend on who else is in the batch
            found.append(f"{path} is {shown(value)} instead of {shown(values[0])}")
    return found


def kind(value: object) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def shown(value: object) -> str:
    """A value for a report, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def sampled(answer: Any) -> list[str]:
    """The text of each choice of a whole answer."""
    try:
        return [str(choice["message"]["content"]) for choice in answer["choices"]]
    except (KeyError, TypeError):
        return []
