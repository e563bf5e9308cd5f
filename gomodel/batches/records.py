"""A file and a batch as the database has them, and as OpenAI's API says them.

Decides the shape of both objects. Pure.
"""

import json
from dataclasses import dataclass
from typing import Any

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
# The moments of a batch's life that are said once they have come.
_MOMENTS = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file. `owner`: the name of the key that it belongs to."""

    id: str
    owner: str | None
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None

    def shown(self) -> dict[str, Any]:
        """The File object."""
        found: dict[str, Any] = {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }
        if self.expires_at is not None:
            found["expires_at"] = self.expires_at
        return found


def shown_batch(row: Any, paused: str | None = None) -> dict[str, Any]:
    """The Batch object of a row of the table; `paused` says why it does not move where the row could not be told."""
    found: dict[str, Any] = {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": None if row.errors is None else {"object": "list", "data": json.loads(row.errors)},
        "input_file_id": row.input_file_id,
        "completion_window": row.completion_window,
        "status": row.status,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        **{name: getattr(row, name) for name in _MOMENTS},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "metadata": None if row.metadata is None else json.loads(row.metadata),
    }
    if row.usage is not None:
        found["usage"] = json.loads(row.usage)
    if (row.paused or paused) and row.status in UNFINISHED:
        found["status_details"] = f"Paused: {paused or row.paused}."
    return found


@dataclass(frozen=True, slots=True)
class Work:
    """A batch that this process holds: what has to be known to go on with it. `epoch`: how often it changed hands."""

    id: str
    owner: str | None
    status: str
    endpoint: str
    input_file_id: str
    expires_at: int
    output_ttl_s: int | None
    model: str | None
    total: int
    completed: int
    failed: int
    usage: dict[str, Any] | None
    done: bytes
    segments: list[list[int]]
    epoch: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been done of a batch: a bit for each line, the bytes of each segment that count, the sums."""

    done: bytes
    segments: list[list[int]]
    completed: int
    failed: int
    usage: dict[str, Any] | None
