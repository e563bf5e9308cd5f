"""What callers may say of files and batches: fields of a form, of a JSON body and of a query, each with its limits.

Raises InvalidValue, which names the field and what it may hold. Pure.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..config.values import duration_s
from ..errors import InvalidBody, InvalidValue
from .ids import BATCH, FILE, is_id

# OpenAI's, and what vLLM serves besides.
ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/score",
    "/v1/rerank",
    "/v2/rerank",
    "/score",
    "/rerank",
    "/classify",
    "/pooling",
    "/v1/classify",
    "/v1/pooling",
)
PURPOSE = "batch"
OUTPUT = "batch_output"
_PURPOSES = (PURPOSE, OUTPUT)
_LONGEST_WINDOW_S = 30 * 86400
_EXPIRES_S = range(3600, 2592000 + 1)
_METADATA_PAIRS, _METADATA_NAME, _METADATA_VALUE = 16, 64, 512
_MOST_FILES, _MOST_BATCHES, _BATCHES = 10000, 100, 20


class Page(NamedTuple):
    """Which part of a list is wanted."""

    limit: int
    after: str | None
    ascending: bool = False
    purpose: str | None = None


class NewBatch(NamedTuple):
    """A batch as it was asked for. `output_ttl_s`: how long its files are kept."""

    input_file_id: str
    endpoint: str
    completion_window: str
    window_s: int
    metadata: dict[str, str] | None
    output_ttl_s: int | None


def purpose(text: str | None) -> None:
    """The `purpose` of an upload."""
    if not text:
        raise InvalidValue("purpose", "'purpose' is missing: send the form field purpose=batch.", code="required")
    if text != PURPOSE:
        raise InvalidValue("purpose", f"'purpose' is {text[:64]!r}; files are kept for batches here: use 'batch'.")


def expires_after(anchor: Any, seconds: Any, *, name: str) -> int | None:
    """How many seconds something is kept; None where nothing is said. Both parts are text or JSON."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidValue(f"{name}[anchor]", f"'{name}[anchor]' must be 'created_at'.")
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit() and len(seconds) < 10:
        seconds = int(seconds)
    if type(seconds) is not int or seconds not in _EXPIRES_S:
        least, most = _EXPIRES_S[0], _EXPIRES_S[-1]
        raise InvalidValue(f"{name}[seconds]", f"'{name}[seconds]' must be an integer from {least} to {most}.")
    return seconds


def file_page(query: Mapping[str, str]) -> Page:
    """The query of GET /v1/files."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidValue("order", "'order' must be 'asc' or 'desc'.")
    wanted = query.get("purpose")
    if wanted is not None and wanted not in _PURPOSES:
        raise InvalidValue("purpose", f"'purpose' must be one of: {', '.join(_PURPOSES)}.")
    limit = _limit(query.get("limit"), _MOST_FILES, _MOST_FILES)
    return Page(limit, _after(query.get("after"), FILE), ascending=order == "asc", purpose=wanted)


def batch_page(query: Mapping[str, str]) -> Page:
    """The query of GET /v1/batches."""
    return Page(_limit(query.get("limit"), _BATCHES, _MOST_BATCHES), _after(query.get("after"), BATCH))


def _after(text: str | None, prefix: str) -> str | None:
    """Of something that may be gone by now: ids are in the order of their making, so its place in the list stays."""
    if text is not None and not is_id(prefix, text):
        raise InvalidValue("after", "'after' must be an id of this list, as 'last_id' of a page before has it.")
    return text


def _limit(text: str | None, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidValue("limit", f"'limit' must be an integer from 1 to {most}.")
    return int(text)


def new_batch(body: bytes) -> NewBatch:
    """The body of POST /v1/batches. Raises InvalidBody as well."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidBody("The request body is not valid JSON.") from None
    if not isinstance(said, dict):
        raise InvalidBody("The request body is not a JSON object.")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if said.get(name) is None:
            raise InvalidValue(name, f"'{name}' is missing.", code="required")
        if not isinstance(said[name], str):
            raise InvalidValue(name, f"'{name}' must be a string.")
    if not is_id(FILE, said["input_file_id"]):
        raise InvalidValue("input_file_id", "'input_file_id' is no id of a file.")
    if said["endpoint"] not in ENDPOINTS:
        raise InvalidValue("endpoint", f"'endpoint' must be one of: {', '.join(ENDPOINTS)}.")
    expires = said.get("output_expires_after")
    if expires is not None and not isinstance(expires, dict):
        raise InvalidValue("output_expires_after", "'output_expires_after' must be an object.")
    return NewBatch(
        said["input_file_id"],
        said["endpoint"],
        said["completion_window"],
        _window_s(said["completion_window"]),
        _metadata(said.get("metadata")),
        expires_after(expires.get("anchor"), expires.get("seconds"), name="output_expires_after") if expires else None,
    )


def _window_s(text: str) -> int:
    try:
        seconds = duration_s(text) if len(text) <= 16 else 0.0
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _LONGEST_WINDOW_S:
        raise InvalidValue(
            "completion_window", "'completion_window' must be a duration such as '24h', '90m' or '7d', 30d at the most."
        )
    return int(seconds)


def _metadata(said: Any) -> dict[str, str] | None:
    if said is None:
        return None
    if not isinstance(said, dict) or len(said) > _METADATA_PAIRS:
        raise InvalidValue("metadata", f"'metadata' must be an object of at most {_METADATA_PAIRS} pairs.")
    for name, value in said.items():
        if not name or len(name) > _METADATA_NAME:
            raise InvalidValue("metadata", f"A name in 'metadata' must have 1 to {_METADATA_NAME} characters.")
        if not isinstance(value, str) or len(value) > _METADATA_VALUE:
            most = _METADATA_VALUE
            raise InvalidValue(
                f"metadata.{name}", f"A value in 'metadata' must be a string of at most {most} characters."
            )
    return said
