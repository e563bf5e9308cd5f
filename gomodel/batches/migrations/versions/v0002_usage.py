"""The tables `usage_hours` and `usage_counted`."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COUNTS = ("requests", "requests_of_unknown_usage", "prompt_tokens", "cached_tokens", "completion_tokens")
_SECONDS = ("audio_seconds", "generation_seconds")


def upgrade() -> None:
    """Make the tables."""
    op.create_table("usage_hours", sa.Column("hour", sa.BigInteger, primary_key=True), *_columns())
    op.create_table(
        "usage_counted",
        sa.Column("run", sa.String(64), primary_key=True),
        *_columns(),
        sa.Column("seen_at", sa.Float(53), nullable=False),
    )


def _columns() -> list[sa.Column[Any]]:
    places: list[sa.Column[Any]] = [sa.Column(name, sa.Text, primary_key=True) for name in ("key", "model", "instance")]
    counts: list[sa.Column[Any]] = [sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS]
    return [*places, *counts, *(sa.Column(name, sa.Float(53), nullable=False) for name in _SECONDS)]
