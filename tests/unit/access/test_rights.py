"""Which routes a key opens by what its entry says, and that no key but a good one opens any that is not open to all."""

from types import SimpleNamespace
from typing import Any

import pytest

from gomodel.access.callers import Callers
from gomodel.access.rights import known_caller
from gomodel.config.settings import Secret
from gomodel.errors import GatewayError, NotAllowed, Unauthorized
from gomodel.http1.request_fields import RequestFields
from gomodel.routes.router import Router

from .test_callers import key, keys

ROUTER = Router(
    base_path="/",
    passthrough=True,
    passthrough_v1_alias=True,
    passthrough_admin=True,
    metrics_path="/metrics",
    metrics_public=False,
)
CALLERS = Callers(
    keys(
        key("plain", "plain"),
        key("through", "through", passthrough=True),
        key("reader", "reader", metrics=True),
        key("operator", "operator", admin=True),
        key("operator-through", "operator-through", admin=True, passthrough=True),
        key("past", "past", admin=True, metrics=True, passthrough=True, expires_at=1.0),
    ),
    [Secret("master")],
)

CHAT, ADMIN, METRICS = "/v1/chat/completions", "/admin/requests", "/metrics"
PASSED, SLEEP, FILE = "/p/vllm/v1/completions", "/p/vllm/sleep?level=1", "/p/vllm/v1/files/sleep"


def asked(target: str, *fields: tuple[bytes, bytes]) -> Any:
    return SimpleNamespace(route=ROUTER.resolve(target), fields=RequestFields(fields, frozenset()))


def outcome(target: str, *fields: tuple[bytes, bytes]) -> str | type[GatewayError] | None:
    """Who is known afterwards, or why nobody is let in."""
    request = asked(target, *fields)
    try:
        known_caller(CALLERS)(request)
    except GatewayError as error:
        return type(error)
    return request.fields.caller and request.fields.caller.name


@pytest.mark.parametrize(
    ("name", "opens"),
    [
        ("plain", {CHAT}),
        ("through", {CHAT, PASSED, FILE}),
        ("reader", {CHAT, METRICS}),
        ("operator", {CHAT, ADMIN}),
        ("operator-through", {CHAT, ADMIN, PASSED, FILE, SLEEP, "/p/vllm/v1/sleep"}),
        ("master", {CHAT, ADMIN, METRICS, PASSED, FILE, SLEEP, "/p/vllm/v1/sleep"}),
    ],
)
def test_a_key_opens_what_its_entry_says(name: str, opens: set[str]) -> None:
    for target in (CHAT, ADMIN, "/admin/instances/a/drain", METRICS, PASSED, FILE, SLEEP, "/p/vllm/v1/sleep"):
        found = outcome(target, (b"Authorization", b"Bearer " + name.encode()))
        expected = target in opens or (target.startswith("/admin/") and ADMIN in opens)
        assert found == (name if expected else NotAllowed), target


@pytest.mark.parametrize("target", [CHAT, ADMIN, METRICS, PASSED, SLEEP, "/nothing", "/v1/nothing"])
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((b"Authorization", b"Bearer other"),),
        ((b"Authorization", b"Bearer past"),),
        ((b"Authorization", b"Bearer master"), (b"Authorization", b"Bearer master")),
    ],
)
def test_no_key_and_no_good_one_read_the_same(target: str, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    assert outcome(target, *fields) is Unauthorized


def test_what_is_open_asks_for_no_key() -> None:
    assert outcome("/health") is None
    assert outcome("/health", (b"Authorization", b"Bearer master")) is None


@pytest.mark.parametrize(
    ("target", "name", "said"),
    [
        (PASSED, "plain", "The key 'plain' does not open /p/: passthrough = true in its entry would."),
        (SLEEP, "through", "The key 'through' administers no server: admin = true in its entry would let it."),
        (ADMIN, "reader", "The key 'reader' is no operator's: admin = true in its entry would make it one."),
        (METRICS, "operator", "The key 'operator' does not open the metrics: metrics = true in its entry would."),
    ],
)
def test_a_refusal_says_what_the_entry_lacks(target: str, name: str, said: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        known_caller(CALLERS)(asked(target, (b"X-Api-Key", name.encode())))
    assert caught.value.message == said
