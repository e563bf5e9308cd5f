"""Who is let in by which limit, what the others are told, and two workers that decide about one caller at once."""

from typing import Any

import pytest

from gomodel.access import limits as module
from gomodel.access.caller import Caller
from gomodel.access.host_usage import HostUsage
from gomodel.access.limits import Limits
from gomodel.config.settings import Key
from gomodel.errors import RateLimited
from gomodel.telemetry.record import Record
from gomodel.telemetry.usage import Usage

from .test_host_usage import as_row


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def record() -> Record:
    return Record("POST", "192.0.2.1", module.monotonic())


def new() -> tuple[Record, float]:
    """A request that begins now, and when that is."""
    entry = record()
    return entry, entry.started


def limits(usage: HostUsage | None = None, **fields: Any) -> Limits:
    usage = usage or HostUsage()
    return Limits(Key("alice", (), **fields), usage.account("alice"), usage.lease("alice"))


def admitted(limits: Limits, *, tried: bool = True) -> Record:
    entry = record()
    entry.tried = tried
    assert limits.admit(entry, entry.started) is not None
    return entry


def spend(limits: Limits, tokens: int) -> None:
    """A request that was let in earlier ends, and says what it took."""
    entry = record()
    entry.usage = Usage(prompt=tokens - 1, completion=1)
    limits.leave(entry, module.monotonic())


def refusal(limits: Limits) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        limits.admit(*new())
    error = caught.value
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "rate_limit_exceeded")
    return error


def test_so_many_at_once_and_the_next_when_one_is_over(clock: Clock) -> None:
    held = limits(in_flight=2)
    first, second = admitted(held), admitted(held)
    error = refusal(held)
    assert error.message == "The key 'alice' may have 2 requests at once."
    assert error.headers == {"Retry-After": "1"}
    held.leave(first, module.monotonic())
    third = admitted(held)
    assert held.refused == {"in_flight": 1}
    for each in (second, third, first, record()):  # one twice, and one that was never let in
        held.leave(each, module.monotonic())
    assert held.used() == (0, 3, 0)


def test_so_many_a_minute_and_the_next_when_one_of_them_is_a_minute_old(clock: Clock) -> None:
    held = limits(requests_per_minute=3)
    for now in (1000.0, 1000.9, 1020.0):
        clock.now = now
        held.leave(admitted(held), clock.now)
    for now, after in ((1020.0, "40"), (1059.9, "1")):
        clock.now = now
        error = refusal(held)
        assert error.message == "The key 'alice' may have 3 requests a minute."
        assert error.headers["Retry-After"] == after
    clock.now = 1060.0
    admitted(held)
    admitted(held)
    assert refusal(held).headers["Retry-After"] == "20"


def test_tokens_are_counted_when_they_are_known_and_bound_the_requests_after(clock: Clock) -> None:
    held = limits(tokens_per_minute=100)
    admitted(held)
    spend(held, 60)
    admitted(held)
    clock.now = 1010.0
    spend(held, 60)
    error = refusal(held)
    assert error.message == "The key 'alice' may have 100 tokens a minute."
    assert error.headers["Retry-After"] == "50"
    clock.now = 1060.0
    admitted(held)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"in_flight": 5}, []),
        (
            {"requests_per_minute": 5},
            ["limit-requests: 5", "remaining-requests: 3", "reset-requests: 1m0s"],
        ),
        ({"tokens_per_minute": 50}, ["limit-tokens: 50", "remaining-tokens: 43", "reset-tokens: 1m0s"]),
        (
            {"requests_per_minute": 5, "tokens_per_minute": 5},
            [
                "limit-requests: 5",
                "remaining-requests: 3",
                "reset-requests: 1m0s",
                "limit-tokens: 5",
                "remaining-tokens: 0",
                "reset-tokens: 1m0s",
            ],
        ),
    ],
)
def test_an_answer_says_what_is_left(clock: Clock, fields: dict[str, int], expected: list[str]) -> None:
    held = limits(**fields)
    assert held.admit(*new()) is not None
    spend(held, 4)
    lines = held.admit(*new())
    spend(held, 3)
    if "tokens_per_minute" in fields and "requests_per_minute" not in fields:
        lines = held.admit(*new())
    if fields.get("tokens_per_minute") == 5:
        error = refusal(held)
        said = [f"{name.removeprefix('x-ratelimit-')}: {value}" for name, value in error.headers.items()][1:]
        assert said == expected
        return
    assert lines is not None
    assert lines == b"".join(f"x-ratelimit-{line}\r\n".encode() for line in expected)


def test_nothing_used_needs_no_time_to_be_free(clock: Clock) -> None:
    lines = limits(tokens_per_minute=50).admit(*new())
    assert lines is not None
    assert b"x-ratelimit-remaining-tokens: 50\r\nx-ratelimit-reset-tokens: 0s\r\n" in lines


def test_limits_that_change_count_what_runs(clock: Clock) -> None:
    held = limits(in_flight=2)
    running = [admitted(held), admitted(held)]
    held.configure(Key("alice", (), in_flight=1))
    held.leave(running.pop(), module.monotonic())
    refusal(held)
    held.leave(running.pop(), module.monotonic())
    admitted(held)
    held.configure(Key("alice", ()))
    admitted(held)
    held.configure(Key("alice", (), in_flight=3))
    admitted(held)
    refusal(held)


def pair(**fields: Any) -> tuple[Limits, Limits]:
    usage = HostUsage(2)
    return limits(as_row(usage, 0), **fields), limits(as_row(usage, 1), **fields)


@pytest.mark.parametrize("fields", [{"in_flight": 4}, {"requests_per_minute": 4}])
def test_workers_share_a_limit(clock: Clock, fields: dict[str, int]) -> None:
    here, there = pair(**fields)
    for each in (here, there, there, here):
        admitted(each)
    for each in (here, there):
        refusal(each)


@pytest.mark.parametrize("fields", [{"in_flight": 4}, {"requests_per_minute": 4}])
def test_of_two_workers_that_see_one_place_left_one_takes_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, fields: dict[str, int]
) -> None:
    """The other decides between this one's look and its decision."""
    here, there = pair(**fields)
    for _ in range(3):
        admitted(here)
    account, look = here._account, type(here._account).look
    looks = []

    def interrupted(self: Any, now: int) -> tuple[int, int, int]:
        found = look(self, now)
        if self is account:
            looks.append(found)
            if len(looks) == 1:
                admitted(there)
        return found

    monkeypatch.setattr(type(account), "look", interrupted)
    refusal(here)


def test_while_another_worker_decides_nothing_is_decided(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = pair(in_flight=1)
    monkeypatch.setattr(type(here._account), "lock", lambda self: False)
    entry = record()
    assert here.admit(entry, entry.started) is None
    assert entry not in here.held
    assert there.used()[0] == 0
    assert here.admit(entry, entry.started, waiting=False) == b""
    assert entry in here.held
    refusal(there)  # full: nobody's decision could change that


@pytest.mark.parametrize("fields", [{"in_flight": 8, "requests_per_minute": 100}, {"requests_per_minute": 8}])
def test_far_from_the_limit_no_lock_is_taken(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, fields: dict[str, int]
) -> None:
    here, there = pair(**fields)
    locks = []
    genuine = type(here._account).lock
    monkeypatch.setattr(type(here._account), "lock", lambda self: locks.append(self) or genuine(self))
    for _ in range(3):
        admitted(here)
        admitted(there)
    assert locks == []
    admitted(here)
    admitted(there)
    assert len(locks) == 2
    refusal(here)
    assert len(locks) == 2


@pytest.mark.parametrize("later_s", [0, 1, 59, 60, 61, 600])
def test_what_no_instance_was_tried_for_is_given_back_to_its_second(clock: Clock, later_s: int) -> None:
    held = limits(requests_per_minute=3)
    admitted(held)
    untried = admitted(held, tried=False)
    clock.now += later_s
    admitted(held)
    held.leave(untried, module.monotonic())
    held.leave(untried, module.monotonic())
    assert held.used()[1] == (2 if later_s < 60 else 1)
    clock.now += 60
    assert held.used()[1] == 0


class Lent:
    """What other gateways leave of the limits: `amounts` as they are now, and whether it is worth to wait for more."""

    def __init__(self, *amounts: tuple[int | None, int | None, int | None] | None, more: bool = False) -> None:
        self._amounts = list(amounts)
        self._more = more
        self.asked: list[bool] = []

    def amounts(self, limits: Limits, *, waiting: bool) -> tuple[int | None, int | None, int | None] | None:
        self.asked.append(waiting)
        return self._amounts.pop(0) if len(self._amounts) > 1 else self._amounts[0]

    def fell_short(self, limits: Limits, since_s: float, *, waiting: bool) -> bool:
        return self._more and waiting


def divided(lent: Lent, **fields: Any) -> Limits:
    held = limits(**fields)
    held.leases = lent  # type: ignore[assignment]
    return held


def test_while_redis_is_asked_nothing_is_decided(clock: Clock) -> None:
    lent = Lent(None, (1, None, None))
    held = divided(lent, in_flight=4)
    entry = record()
    assert held.admit(entry, entry.started) is None
    assert entry not in held.held
    assert held.admit(entry, entry.started, waiting=False) == b""
    assert lent.asked == [True, False]


@pytest.mark.parametrize(
    ("fields", "amounts", "said", "after"),
    [
        ({"in_flight": 4}, (1, None, None), "4 requests at once", "1"),
        ({"requests_per_minute": 9}, (None, 1, None), "9 requests a minute", "2"),
        ({"tokens_per_minute": 99}, (None, None, 5), "99 tokens a minute", "2"),
        ({"requests_per_minute": 1}, (None, 1, None), "1 requests a minute", "60"),
    ],
)
def test_who_is_refused_by_a_part_of_a_limit_hears_of_the_whole_and_when_it_is_divided_anew(
    clock: Clock, fields: dict[str, int], amounts: tuple[int | None, int | None, int | None], said: str, after: str
) -> None:
    held = divided(Lent(amounts), **fields)
    admitted(held)
    spend(held, 5)
    error = refusal(held)
    assert error.message == f"The key 'alice' may have {said}."
    assert error.headers["Retry-After"] == after


def test_who_would_be_refused_by_a_part_of_a_limit_waits_where_more_may_come(clock: Clock) -> None:
    held = divided(Lent((1, None, None), more=True), in_flight=4)
    admitted(held)
    entry = record()
    assert held.admit(entry, entry.started) is None
    assert (held.refused, entry in held.held) == ({}, False)
    with pytest.raises(RateLimited):
        held.admit(entry, entry.started, waiting=False)
    full = divided(Lent((1, None, None), more=True), in_flight=1)
    admitted(full)
    refusal(full)  # by all of it: nothing more can come


def test_an_answer_says_what_is_left_of_the_part_and_how_much_the_whole_is(clock: Clock) -> None:
    lines = divided(Lent((None, 3, 50)), requests_per_minute=9, tokens_per_minute=99).admit(*new())
    assert lines is not None
    assert [line.split(b": ")[1] for line in lines.split(b"\r\n")[:-1]] == [b"9", b"2", b"1m0s", b"99", b"50", b"0s"]


def test_without_other_gateways_the_whole_limit_holds_again(clock: Clock) -> None:
    caller = Caller(Key("alice", (), in_flight=2), HostUsage())
    held = caller.limits
    assert held is not None
    held.leases = Lent((1, None, None))  # type: ignore[assignment]
    admitted(held)
    refusal(held)
    caller.borrow(None)
    admitted(held)
    refusal(held)


def test_what_is_lent_is_known_while_it_holds(clock: Clock) -> None:
    held = limits(in_flight=4)
    held.lease.put((1, 2, 3), 999_000, 1_000_500, 2)
    assert held.lent() is None  # nobody divides it
    held.leases = Lent((1, None, None))  # type: ignore[assignment]
    assert held.lent() == (1, 2, 3)
    clock.now = 1000.5
    assert held.lent() is None
