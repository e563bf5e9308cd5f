"""GET /admin/keys: what several workers say of one caller as one, and no word of those who never asked."""

from hashlib import sha256
from time import monotonic
from typing import Any

from gomodel.access import host_usage
from gomodel.access.callers import Callers
from gomodel.config.settings import Key, Keys, Secret
from gomodel.operations.keys import counted, listed, totals
from gomodel.telemetry.record import Record


def key(name: str, **fields: Any) -> Key:
    return Key(name, (sha256(name.encode()).digest(),), **fields)


def callers(*entries: Key) -> Callers:
    return Callers(Keys("keys.toml", entries), [Secret("m")])


def ended(status: int) -> Record:
    record = Record("POST", "192.0.2.1", 0.0)
    record.status = status
    return record


def test_without_a_keys_file_there_is_none() -> None:
    assert counted(None) == {}
    assert listed(None, [{}]) == {"entries": 0, "keys": []}


def test_who_never_asked_is_counted_and_not_listed() -> None:
    some = callers(*(key(f"k{at}") for at in range(100)))
    assert listed(some, [counted(some)]) == {"entries": 100, "keys": []}


def test_says_what_is_known_of_a_caller() -> None:
    some = callers(key("alice", in_flight=3, requests_per_minute=60, models=("m*",), priority=-1), key("bob"))
    for text in ("alice", "m", "alice"):
        caller = some.find([text.encode()])
        assert caller is not None
        caller.running += 1
    caller.leave(ended(200), 0.0)
    alice, master = listed(some, [counted(some)], {"alice": (1, {})})["keys"]
    assert alice == {
        "name": "alice",
        "state": "active",
        "running": 1,
        "requests": 1,
        "limits": {"in_flight": 3, "requests_per_minute": 60},
        "used": {"in_flight": 0, "requests_per_minute": 0},
        "lent": {},
        "refused": {},
        "models": ["m*"],
        "priority": -1,
    }
    assert (master["name"], master["state"], master["running"], master["limits"]) == ("master", "active", 1, {})
    assert sha256(b"alice").hexdigest() not in str(listed(some, [counted(some)]))


def test_what_the_workers_say_adds_up_but_for_what_is_the_hosts() -> None:
    some = callers(key("alice", in_flight=8, tokens_per_minute=9))
    mine = {
        "running": 1,
        "used": {"in_flight": 3, "requests_per_minute": 7, "tokens_per_minute": 2},
        "lent": {"in_flight": 4, "requests_per_minute": 0, "tokens_per_minute": 9},
    }
    (alice,) = listed(some, [{"alice": mine}, {}, {"alice": {**mine, "running": 2}}])["keys"]
    assert (alice["running"], alice["requests"], alice["refused"]) == (3, 0, {})
    assert alice["used"] == {"in_flight": 3, "tokens_per_minute": 2}
    assert alice["lent"] == {"in_flight": 4, "tokens_per_minute": 9}


def test_a_key_that_is_gone_or_expired_says_so() -> None:
    some = callers(key("alice", in_flight=1), key("bob", expires_at=9e9))
    for name in ("alice", "bob"):
        assert some.find([name.encode()]) is not None
    some.take(Keys("keys.toml", (key("bob", expires_at=1.0),)))
    states = {each["name"]: (each["state"], each["limits"]) for each in listed(some, [counted(some)])["keys"]}
    assert states == {"alice": ("removed", {}), "bob": ("expired", {})}


SNAPSHOTS = [
    {
        "gomodel_key_requests_total": [(("alice", "200"), 5), (("alice", "429"), 2), (("gone", "200"), 1)],
        "gomodel_key_refused_total": [(("alice", "in_flight"), 2)],
    },
    {},
    {
        "gomodel_key_requests_total": [(("alice", "200"), 4), (("bob", "499"), 1)],
        "gomodel_key_refused_total": [(("alice", "in_flight"), 1), (("alice", "tokens_per_minute"), 3)],
    },
]


def test_what_was_counted_is_that_of_all_workers_there_ever_were() -> None:
    assert totals(SNAPSHOTS) == {
        "alice": (11, {"in_flight": 3, "tokens_per_minute": 3}),
        "bob": (1, {}),
        "gone": (1, {}),
    }
    assert totals([]) == {}


def test_who_asked_only_workers_that_are_gone_is_listed_with_what_the_host_knows() -> None:
    usage = host_usage.HostUsage(2)
    usage.take(1)
    usage.account("alice").spend(int(monotonic()), 700)
    usage.take(0)  # another worker
    some = callers(key("alice", tokens_per_minute=1000), key("bob", expires_at=9e9), key("idle"))
    some._usage = usage
    some.take(Keys("keys.toml", (key("alice", tokens_per_minute=1000), key("bob", expires_at=1.0), key("idle"))))
    found = {each["name"]: each for each in listed(some, [{}, {}], totals(SNAPSHOTS))["keys"]}
    assert {name: (each["state"], each["running"], each["requests"]) for name, each in found.items()} == {
        "alice": ("active", 0, 11),
        "bob": ("expired", 0, 1),
        "gone": ("removed", 0, 1),
    }
    assert found["alice"]["refused"] == {"in_flight": 3, "tokens_per_minute": 3}
    assert found["alice"]["used"] == {"tokens_per_minute": 700}
