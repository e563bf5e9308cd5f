"""Fixtures of the wire tests alone."""

from ..harness.keys import keyed

__all__ = ["keyed"]
