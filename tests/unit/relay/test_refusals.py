"""Which answers say that a server did no work; bodies as vLLM 0.32 and 0.33 send them, from both front ends."""

import json

import pytest

from gomodel.relay.attempts import Outcome
from gomodel.relay.refusals import STATUSES, refusal


def openai(message: str, kind: str, code: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


BUSY = "The engine is currently busy. Please try again later or on a different instance."
UNKNOWN = "The model `m` does not exist. Valid aliases: a, b."
REFUSED = [
    (401, b'{"error":"Unauthorized"}', Outcome.KEY_REFUSED),
    (401, b"", Outcome.KEY_REFUSED),
    (403, b"<html>forbidden</html>", Outcome.FORBIDDEN),
    (500, openai("cannot schedule new futures after shutdown", "InternalServerError", 500), Outcome.DRAINING),
    (503, openai(BUSY, "ServiceUnavailableError", 503), Outcome.BUSY),
    (503, openai(BUSY, "any", 503), Outcome.BUSY),
    (503, b'{"error":"The model is currently scaling. Please try again later."}', Outcome.BUSY),
    (503, openai("Generation is paused. Please retry after it resumes.", "any", 503), Outcome.BUSY),
    (503, b'{"type":"error","error":{"type":"overloaded_error","message":"no"}}', Outcome.BUSY),
    (404, openai(UNKNOWN, "NotFoundError", 404), Outcome.UNLOADED),
    (404, openai("The model `org/m-7b` does not exist.", "NotFoundError", 404), Outcome.UNLOADED),
    (404, openai("no such", "invalid_request_error", "model_not_found"), Outcome.UNLOADED),
    (
        404,
        b'{"type":"error","error":{"type":"not_found_error","message":"The model `m` does not exist."}}',
        Outcome.UNLOADED,
    ),
]
PASSED = [
    (200, b'{"error":"Unauthorized"}'),
    (400, openai(UNKNOWN, "NotFoundError", 404)),
    (404, b'{"detail":"Not Found"}'),
    (404, b""),
    (404, openai("Response with id 'resp_1' not found.", "invalid_request_error", 404)),
    (429, openai(BUSY, "ServiceUnavailableError", 429)),
    (500, openai("boom", "InternalServerError", 500)),
    (500, openai(BUSY, "InternalServerError", 500)),
    (501, openai("cannot schedule new futures after shutdown", "any", 501)),
    (502, openai(BUSY, "ServiceUnavailableError", 502)),
    (503, b""),
    (503, b"<html><head><title>503 Service Temporarily Unavailable</title></head></html>"),
    (503, openai("cannot schedule new futures after shutdown", "InternalServerError", 500)),
]


@pytest.mark.parametrize(("status", "body", "outcome"), REFUSED)
def test_a_refusal_is_known(status, body, outcome):
    assert refusal(status, body) is outcome
    assert status in STATUSES


@pytest.mark.parametrize(("status", "body"), PASSED)
def test_any_other_answer_is_the_clients(status, body):
    assert refusal(status, body) is None
