"""Holds back an error answer that may be a refusal, so that another instance can take the request.

Decides how much of an answer must be here before it is read: all of it, where its length is known and small; of a 401
its status is enough. What it says is read by `refusals`. Knows nothing of retries or of the client.
"""

from typing import NamedTuple

from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from . import refusals
from .attempts import Outcome

_UNAUTHORIZED = 401


class Withheld(NamedTuple):
    """An answer of which the client has seen nothing; `refusal` is None while the rest of it has to come."""

    message: ResponseMessage
    fields: ResponseFields
    data: bytes
    refusal: Outcome | None


def withheld(message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> Withheld | None:
    """What is to be kept of an answer with one of `refusals.STATUSES`; None when it is the client's to read."""
    if complete or message.code == _UNAUTHORIZED:
        refusal = refusals.refusal(message.code, data)
        return None if refusal is None else Withheld(message, fields, data, refusal)
    if not 0 <= fields.length <= refusals.LIMIT_BYTES:
        return None
    return Withheld(message, fields, data, None)
