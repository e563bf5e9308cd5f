"""The line: no limit is exceeded, nobody waits beside a free slot, and keys share by weight, whatever happens."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from gomodel.access.fair_queue import FairQueue, Refused, Ticket

quick = settings(derandomize=True, deadline=None, database=None, max_examples=30)

ONE = (("a", 1),)
WEIGHTS = {"light": 1.0, "heavy": 3.0, "feather": 0.5}


def came(line: FairQueue, key: str = "", replicas: tuple[tuple[str, int | None], ...] = ONE, **more: float) -> Ticket:
    ticket = Ticket(key, replicas, **more)  # type: ignore[arg-type]
    line.arrive(ticket)
    return ticket


def served(line: FairQueue, running: Ticket) -> Iterator[Ticket]:
    """Who gets the slot, as one after the other is over."""
    while changed := line.leave(running):
        (running,) = changed
        yield running


def test_of_one_key_the_first_that_came_is_the_first_that_goes() -> None:
    line = FairQueue(10)
    running = came(line)
    waiting = [came(line) for _ in range(5)]
    assert running.replica == "a"
    assert list(served(line, running)) == waiting


def test_keys_take_turns_by_weight_whoever_came_first() -> None:
    line = FairQueue(100)
    running = came(line, "first")
    for _ in range(8):
        came(line, "heavy", weight=2)
    for _ in range(4):
        came(line, "light")
    keys = [each.key for each in served(line, running)]
    for at in range(0, 12, 3):
        assert Counter(keys[at : at + 3]) == {"heavy": 2, "light": 1}


def test_who_waited_for_nothing_has_no_claim() -> None:
    line = FairQueue(100)
    running = came(line, "busy")
    for _ in range(50):
        line.leave(running)
        running = came(line, "busy")
    waiting = [came(line, key) for _ in range(3) for key in ("busy", "new")]
    assert Counter(each.key for each, _ in zip(served(line, running), range(4), strict=False)) == {"busy": 2, "new": 2}
    assert len(waiting) == 6


def test_who_leaves_the_line_is_never_served_and_owes_nothing() -> None:
    line = FairQueue(100)
    running = came(line, "a")
    gone = [came(line, "b") for _ in range(50)]
    other = [came(line, "c") for _ in range(3)]
    for each in gone:
        assert line.leave(each) == []
        assert line.leave(each) == [], "once is enough"
    late = [came(line, "b") for _ in range(3)]
    assert line.waiting == 6
    order = list(served(line, running))
    assert set(order) == {*other, *late}
    assert [each.key for each in order[:4]] in (["c", "b"] * 2, ["b", "c"] * 2)


def test_a_request_takes_the_first_replica_with_room_and_waits_for_any() -> None:
    line = FairQueue(10)
    replicas = (("a", 1), ("b", 1))
    first, second, third = (came(line, replicas=replicas) for _ in range(3))
    assert (first.replica, second.replica, third.replica) == ("a", "b", None)
    other = came(line, replicas=(("c", 1),))
    assert other.replica == "c", "nobody waits for c"
    assert line.leave(second) == [third]
    assert third.replica == "b"


def test_a_replica_without_a_limit_always_has_room() -> None:
    line = FairQueue(0)
    assert [came(line, replicas=(("a", 1), ("b", None))).replica for _ in range(3)] == ["a", "b", "b"]


def test_a_key_with_a_limit_waits_for_itself_and_holds_up_nobody() -> None:
    line = FairQueue(10)
    roomy = (("a", 9),)
    running = [came(line, "k", roomy, most=2) for _ in range(2)]
    waiting = [came(line, "k", roomy, most=2) for _ in range(2)]
    assert [each.replica for each in waiting] == [None, None]
    assert came(line, "other", roomy).replica == "a"
    assert line.leave(running[0]) == waiting[:1]


def test_a_key_that_is_full_holds_up_nobody_who_waits_behind_it() -> None:
    line = FairQueue(10)
    full, running = came(line, "k", (("b", 9),), most=1), came(line)
    behind = [came(line, key, most=1 if key == "k" else None) for key in ("k", "other")]  # type: ignore[arg-type]
    assert line.leave(running) == [behind[1]]
    assert line.leave(full) == []
    assert line.leave(behind[1]) == [behind[0]]


def test_of_one_key_the_first_that_came_is_the_first_that_goes_wherever_else_it_might_go() -> None:
    line, both = FairQueue(10), (("a", 1), ("b", 1))
    running = [came(line), came(line, replicas=(("b", 1),))]
    waiting = [came(line), came(line, replicas=both), came(line)]
    assert list(served(line, running[0])) == waiting


def test_a_full_line_refuses() -> None:
    line = FairQueue(2)
    came(line)
    waiting = [came(line) for _ in range(3)]
    assert [each.refused for each in waiting] == [None, None, Refused.FULL]
    assert line.waiting == 2
    assert line.leave(waiting[2]) == []


def test_who_has_less_than_a_share_of_a_full_line_takes_the_place_of_the_last_of_who_has_most() -> None:
    line = FairQueue(4)
    came(line, "greedy")
    greedy = [came(line, "greedy") for _ in range(4)]
    modest = [Ticket("modest", ONE) for _ in range(3)]
    assert [line.arrive(each) for each in modest] == [[greedy[3]], [greedy[2]], []]
    assert [each.refused for each in greedy] == [None, None, Refused.SHARE, Refused.SHARE]
    assert [each.refused for each in modest] == [None, None, Refused.SHARE], "its share it has"
    assert came(line, "greedy").refused is Refused.SHARE
    assert line.waiting == 4


def test_of_two_that_would_have_as_much_neither_takes_the_others_place() -> None:
    line = FairQueue(5)
    came(line, "first")
    for key in ("first", "first", "first", "second", "second"):
        came(line, key)
    assert came(line, "second").refused is Refused.SHARE
    assert came(line, "second", weight=1.01).refused is None


def test_who_has_many_places_for_a_great_weight_has_no_more_than_its_share() -> None:
    line = FairQueue(5)
    came(line, "heavy", weight=4)
    for key in ("heavy", "heavy", "heavy", "heavy", "light"):
        came(line, key, weight=4 if key == "heavy" else 1)
    assert came(line, "light").refused is Refused.SHARE
    assert came(line, "feather", weight=0.5).refused is Refused.SHARE
    assert came(line, "new", weight=1.1).refused is None


def test_the_last_that_came_gives_up_its_place_wherever_it_might_go() -> None:
    both = (("a", 1), ("b", 1))
    for last, before in ((ONE, both), (both, ONE)):
        line = FairQueue(3)
        running = [came(line, "greedy"), came(line, "greedy", (("b", 1),))]
        greedy = [came(line, "greedy", each) for each in (last, before, last)]
        came(line, "modest")
        assert [each.refused for each in (*running, *greedy)] == [None, None, None, None, Refused.SHARE]


def test_it_is_full_and_no_matter_of_shares_where_nobody_else_waits_any_more() -> None:
    line = FairQueue(1)
    came(line)
    line.leave(came(line, "gone"))
    assert [came(line).refused for _ in range(2)] == [None, Refused.FULL]


def test_a_share_goes_by_weight() -> None:
    line = FairQueue(4)
    came(line, "a")
    for _ in range(4):
        came(line, "a")
    taken = [came(line, "b", weight=3) for _ in range(4)]
    assert [each.refused for each in taken] == [None, None, None, Refused.SHARE]


def test_who_does_not_wait_has_a_slot_or_nothing() -> None:
    line = FairQueue(10)
    first, second = Ticket("", ONE), Ticket("", ONE)
    assert line.arrive(first, waits=False) == line.arrive(second, waits=False) == []
    assert (first.replica, second.replica, second.refused, line.waiting) == ("a", None, None, 0)


def test_a_higher_limit_serves_those_who_wait_when_the_next_one_says_so() -> None:
    line = FairQueue(10)
    came(line)
    waiting = [came(line) for _ in range(2)]
    late = Ticket("", (("a", 3),))
    assert line.arrive(late) == waiting
    assert late.replica is None


def test_a_lower_limit_takes_nothing_away_and_gives_nothing_out() -> None:
    line = FairQueue(10)
    running = [came(line, replicas=(("a", 3),)) for _ in range(3)]
    waiting = came(line)
    assert line.leave(running[0]) == line.leave(running[1]) == []
    assert line.leave(running[2]) == [waiting]


def test_the_order_is_that_in_which_they_go() -> None:
    line = FairQueue(100)
    running = came(line, "x")
    for key in "aabacbbcca" * 3:
        came(line, key, weight={"a": 2.0}.get(key, 1.0))
    for _ in range(16):
        (running,) = line.leave(running)
    for key in "ddcdd":
        came(line, key)
    order = list(line.order())
    assert order == list(served(line, running))


def test_what_is_over_leaves_nothing_behind() -> None:
    line = FairQueue(10)
    for number in range(100):
        line.leave(came(line, f"key {number}", ((f"replica {number}", 1),)))
    assert [line._flows, line._used, line._lines, line._limits] == [{}] * 4


class Lent:
    """What other hosts leave of a key's limit, and what is taken of it here."""

    def __init__(self) -> None:
        self.there_is = 2
        self.taken = 0, 0

    def most(self) -> int:
        return self.there_is

    def take(self, running: int, waiting: int) -> None:
        self.taken = running, waiting


class Anything(RuleBasedStateMachine):
    """Any order of arrivals, departures and ends, and after each of them what must hold."""

    tickets = Bundle("tickets")

    @initialize(limit=st.integers(0, 6), limits=st.tuples(st.integers(1, 3), st.integers(1, 3)))
    def begin(self, limit: int, limits: tuple[int, int]) -> None:
        self.lent = Lent()
        self.line = FairQueue(limit, {"heavy": self.lent}.__getitem__)
        self.limits: dict[str, int | None] = {"a": limits[0], "b": limits[1], "c": None}
        self.most = {"light": None, "heavy": 2, "feather": None}
        self.running: set[Ticket] = set()
        self.waiting: list[Ticket] = []

    def changed(self, tickets: list[Ticket]) -> None:
        for each in tickets:
            self.waiting.remove(each)
            assert (each.refused is None) == (each.replica is not None)
            if each.replica is not None:
                before = [other for other in self.waiting if (other.key, other.replicas) == (each.key, each.replicas)]
                assert all(other.number > each.number for other in before), "first come, first served"
                self.runs(each)

    def runs(self, ticket: Ticket) -> None:
        self.running.add(ticket)
        assert ticket.key != "heavy" or sum(each.key == "heavy" for each in self.running) <= self.lent.there_is

    @rule(
        target=tickets,
        key=st.sampled_from(sorted(WEIGHTS)),
        replicas=st.sampled_from(["a", "b", "ab", "ba", "ac"]),
        waits=st.booleans(),
    )
    def arrives(self, key: str, replicas: str, waits: bool) -> Ticket:
        listed = tuple((each, self.limits[each]) for each in replicas)
        ticket = Ticket(key, listed, weight=WEIGHTS[key], most=self.most[key], lent=key == "heavy")
        full = len(self.waiting) == self.line.limit
        self.changed(self.line.arrive(ticket, waits=waits))
        if ticket.replica is not None:
            self.runs(ticket)
        elif ticket.refused is None and waits:
            self.waiting.append(ticket)
        else:
            assert full or not waits
        return ticket

    @rule(ticket=tickets)
    def ends(self, ticket: Ticket) -> None:
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        self.running.discard(ticket)
        self.changed(self.line.leave(ticket))

    @rule(there_is=st.integers(0, 3))
    def is_lent(self, there_is: int) -> None:
        self.lent.there_is = there_is
        self.changed(self.line.renewed())

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "line"):
            return
        used = Counter(each.replica for each in self.running)
        keys = Counter(each.key for each in self.running)
        assert all(limit is None or used[replica] <= limit for replica, limit in self.limits.items())
        assert all(most is None or keys[key] <= most for key, most in self.most.items())
        assert self.line.waiting == len(self.waiting) <= self.line.limit
        assert set(self.line.order()) == set(self.waiting)
        assert self.lent.taken == (keys["heavy"], sum(each.key == "heavy" for each in self.waiting))
        for each in self.waiting:
            most = self.most[each.key]
            if most is not None:
                most = min(most, self.lent.there_is)
            free = [name for name, limit in each.replicas if limit is None or used[name] < limit]
            assert not free or (most is not None and keys[each.key] >= most), "a waiter beside a free slot"


TestAnything = pytest.mark.filterwarnings("default")(Anything.TestCase)
TestAnything.settings = settings(quick, max_examples=60, stateful_step_count=30)


@quick
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=4), st.integers(1, 4), st.data())
def test_keys_that_wait_all_the_time_get_their_share_to_within_one_request(
    weights: list[float], slots: int, data: st.DataObject
) -> None:
    line = FairQueue(1000)
    replicas = (("a", slots),)
    holders = [came(line, "before", replicas) for _ in range(slots)]
    for _ in range(40):
        for key, weight in enumerate(weights):
            came(line, str(key), replicas, weight=weight)
    got: Counter[str] = Counter()
    for _ in range(40):
        ended = holders.pop(data.draw(st.integers(0, slots - 1)))
        (next_one,) = line.leave(ended)
        holders.append(next_one)
        got[next_one.key] += 1
        for (i, first), (j, second) in combinations(enumerate(weights), 2):
            assert abs(got[str(i)] / first - got[str(j)] / second) <= 1 / first + 1 / second + 1e-9
