"""A message's head as its parser gives it: what is asked of aiohttp's raw messages.

Its parser in C and its parser in Python make classes of their own for them, which have these names in common.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Message(Protocol):
    """The head of a request or of a response."""

    @property
    def version(self) -> tuple[int, int]: ...
    @property
    def headers(self) -> Any: ...  # a CIMultiDictProxy
    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]: ...
    @property
    def should_close(self) -> bool: ...
    @property
    def upgrade(self) -> bool: ...
    @property
    def chunked(self) -> bool: ...


class RequestMessage(Message, Protocol):
    """The head of a request."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def _replace(self) -> Callable[..., Any]: ...  # a NamedTuple's


class ResponseMessage(Message, Protocol):
    """The head of a response."""

    @property
    def code(self) -> int: ...
    @property
    def reason(self) -> str: ...
