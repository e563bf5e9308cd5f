"""The tables of files, batches and usage, as of the last migration (`migrations`).

Contents are files in the data directory (`contents`); everything else is here. Times are seconds since 1970.
"""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, Text

from ..telemetry.usage_table import DIMENSIONS, NUMBERS

METADATA = MetaData()

FILES = Table(
    "files",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", Text),  # a key's name; NULL: nobody's in particular
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("deleted", Boolean, nullable=False),  # its content goes as soon as no batch reads it
)

BATCHES = Table(
    "batches",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", Text),
    Column("status", String(16), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("metadata", Text),  # JSON
    Column("output_ttl_s", BigInteger),  # `output_expires_after`
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("errors", Text),  # JSON: why the file was refused
    Column("created_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("expires_at", BigInteger, nullable=False),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("model", Text),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("usage", Text),  # JSON
    Column("paused", Text),  # why it does not move, for people
    # What is done, changed in one transaction: a bit for each line, and how much of each segment counts.
    Column("done", LargeBinary, nullable=False),
    Column("segments", Text, nullable=False),  # JSON: [[epoch, bytes of results, bytes of errors], ...]
    # Whose it is to run: until when by the database's clock, and how often it changed hands.
    Column("lease_until", Float(53), nullable=False),
    Column("epoch", Integer, nullable=False),
)


def _usage() -> list[Column[Any]]:
    """Whose usage it is, and how much (`telemetry.usage_table`)."""
    places = [Column(name, Text, primary_key=True) for name in DIMENSIONS]
    kinds = {name: Float(53) if name.endswith("seconds") else BigInteger() for name in NUMBERS}
    return [*places, *(Column(name, kind, nullable=False) for name, kind in kinds.items())]


USAGE_HOURS = Table("usage_hours", METADATA, Column("hour", BigInteger, primary_key=True), *_usage())
# What of a gateway's sums is in the hours, by `run`, which is one life of a gateway.
USAGE_COUNTED = Table(
    "usage_counted",
    METADATA,
    Column("run", String(64), primary_key=True),
    *_usage(),
    Column("seen_at", Float(53), nullable=False),
)
