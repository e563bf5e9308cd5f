"""Records of requests that ended, with what a test wants to be known of them."""

from typing import Any

from gomodel.telemetry.record import Record


def ended(**known: Any) -> Record:
    """The record of a request that ended."""
    record = Record("POST", "192.0.2.1", 100.0)
    defaults = {"id": "r-1", "route": "/v1/completions", "instance": "vllm", "model": "m", "status": 200}
    for name, value in {**defaults, **known}.items():
        setattr(record, name, value)
    return record
