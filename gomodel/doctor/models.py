"""What a place says of itself, its version and its models, and what a gateway calls the model of an instance.

Decides which name of a gateway's list is meant, where nobody says it.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .client import Connection, request, unreachable
from .exchange import Exchange
from .places import Place

# No engine is needed for it.
_LIMIT_S = 15.0


async def version(place: Place) -> str:
    """What vLLM calls itself, "" where it does not say."""
    try:
        async with await Connection.to(place) as connection:
            said = (await connection.ask(request(place, "GET", "/version"), _LIMIT_S)).json()
    except OSError:
        return ""
    return str(said.get("version") or "") if isinstance(said, dict) else ""


async def entries_of(place: Place) -> tuple[Exchange, list[dict[str, Any]]]:
    """GET /v1/models, and the entries of the list."""
    try:
        async with await Connection.to(place) as connection:
            exchange = await connection.ask(request(place, "GET", "/v1/models"), _LIMIT_S)
    except OSError as error:
        return unreachable(error), []
    entries: list[dict[str, Any]] = []
    with suppress(ValueError, KeyError, TypeError):
        entries = [each for each in json.loads(exchange.body)["data"] if isinstance(each.get("id"), str)]
    return exchange, entries


def name_through(ids: Sequence[str], instance: str, model: str) -> str | None:
    """What a gateway with this list calls the model of the instance; None where it has none like it."""
    if not ids:
        return model
    wanted = (f"{instance}/{model}", model)
    alike = [each for each in ids if each.endswith(f"/{model}")]
    return next((each for each in (*wanted, *alike[:1]) if each in ids), None)
