"""Who gets which connection, and for whom one is opened."""

import pytest

from gomodel.errors import ConnectError
from gomodel.upstream import line as line_module
from gomodel.upstream.line import AT_ONCE, Line

from ...harness.verdicts import turned

FAILED = ConnectError("Instance 'vllm' refused the connection.")


class Seeking:
    """One who waits; `got` is its connection or why there is none."""

    def __init__(self, name):
        self.name = name
        self.gone = False
        self.got = None
        self.codes = []

    def opened(self, code):
        self.codes.append(code)

    def on_channel(self, channel):
        self.got = channel

    def on_no_channel(self, error):
        self.got = error


class Dial:
    """A connect under way, which ends as a call of this says."""

    def __init__(self, opened):
        self._opened = opened
        self.given_up = False

    def __call__(self, channel, error):
        self._opened(channel, error)

    def cancel(self):
        self.given_up = True


class Waiting:
    """A line with its dials, which end when the test says so, and those who joined."""

    def __init__(self, count):
        self.dials, self.kept = [], []
        self.line = Line(self._dial, self.kept.append)
        self.seeking = [Seeking(number) for number in range(count)]
        for each in self.seeking:
            self.line.join(each)

    def _dial(self, opened):
        self.dials.append(Dial(opened))
        return self.dials[-1]

    @property
    def got(self):
        return [each.got for each in self.seeking]

    @property
    def given_up(self):
        return [number for number, dial in enumerate(self.dials) if dial.given_up]


async def test_each_of_a_few_has_a_connect_of_its_own():
    waiting = Waiting(3)
    for number in (0, 1, 2):
        waiting.dials[number](f"new {number}", None)
    assert waiting.got == ["new 0", "new 1", "new 2"]
    assert [each.codes for each in waiting.seeking] == [["ok"]] * 3
    assert (len(waiting.dials), waiting.kept) == (3, [])


async def test_each_gets_its_own_or_what_is_idle_before_and_the_first_comes_first():
    waiting = Waiting(4)
    waiting.dials[2]("new 2", None)
    assert waiting.got == [None, None, "new 2", None]
    waiting.line.serve(iter(["idle", None]).__next__)
    assert waiting.got == ["idle", None, "new 2", None]
    waiting.dials[0]("new 0", None)
    assert waiting.got == ["idle", "new 0", "new 2", None]


async def test_what_nobody_waits_for_any_more_is_kept():
    waiting = Waiting(2)
    idle = iter(["a", "b", None])
    waiting.line.serve(lambda: next(idle))
    for dial in waiting.dials:
        dial("spare", None)
    assert (waiting.got, waiting.kept) == (["a", "b"], ["spare", "spare"])
    assert not waiting.line.waiting


async def test_of_a_crowd_so_many_are_opened_at_a_time():
    waiting = Waiting(AT_ONCE + 5)
    assert len(waiting.dials) == AT_ONCE
    waiting.dials[0]("new", None)
    assert len(waiting.dials) == AT_ONCE + 1
    idle = iter(["idle"] * (AT_ONCE + 4) + [None])
    waiting.line.serve(lambda: next(idle))
    waiting.dials[1]("spare", None)
    assert len(waiting.dials) == AT_ONCE + 1
    assert waiting.got == ["new"] + ["idle"] * (AT_ONCE + 4)


async def test_a_connect_that_is_under_way_for_nobody_serves_who_comes():
    waiting = Waiting(1)
    waiting.line.serve(lambda: "idle")
    late = Seeking("late")
    waiting.line.join(late)
    assert len(waiting.dials) == 1
    waiting.dials[0]("new", None)
    assert late.got == "new"


async def test_nobody_waits_long_behind_connects_that_hang(monkeypatch):
    monkeypatch.setattr(line_module, "PROMPT_S", 0.0)
    waiting = Waiting(AT_ONCE + 3)
    await turned(lambda: len(waiting.dials) == AT_ONCE + 3)
    waiting.dials[-1]("new", None)
    waiting.dials[-2](None, FAILED)
    assert waiting.got == [None] * (AT_ONCE + 1) + [FAILED, "new"]
    assert len(waiting.dials) == AT_ONCE + 3


async def test_for_who_is_gone_none_is_opened(monkeypatch):
    monkeypatch.setattr(line_module, "PROMPT_S", 0.0)
    waiting = Waiting(AT_ONCE + 2)
    waiting.seeking[-1].gone = True
    await turned(lambda: len(waiting.line.waiting) == AT_ONCE + 1)
    assert len(waiting.dials) == AT_ONCE + 1


async def test_a_failure_is_that_of_whom_the_connect_was_for():
    waiting = Waiting(3)
    waiting.dials[1](None, FAILED)
    assert waiting.got == [None, FAILED, None]
    assert waiting.seeking[1].codes == [FAILED.code]
    waiting.line.serve(iter(["idle", None]).__next__)
    waiting.dials[0](None, FAILED)  # its own has a connection
    assert waiting.got == ["idle", FAILED, None]


@pytest.mark.parametrize("failed", [False, True])
async def test_who_is_gone_gets_nothing_and_is_in_nobodys_way(failed):
    waiting = Waiting(2)
    waiting.seeking[0].gone = True
    waiting.dials[0](*((None, FAILED) if failed else ("new", None)))
    assert waiting.got == [None, None if failed else "new"]


async def test_at_the_end_nobody_gets_one():
    waiting = Waiting(AT_ONCE + 2)
    waiting.seeking[0].gone = True
    waiting.line.give_up(FAILED)
    assert waiting.got == [None] + [FAILED] * (AT_ONCE + 1)
    waiting.dials[0]("spare", None)
    assert waiting.kept == ["spare"]


async def test_the_connect_of_who_leaves_is_given_up_and_told_nobody():
    waiting = Waiting(3)
    waiting.line.leave(waiting.seeking[1])
    assert waiting.given_up == [1]
    waiting.dials[1](None, FAILED)
    assert waiting.seeking[1].codes == []
    waiting.dials[0]("new", None)
    waiting.line.leave(waiting.seeking[0])  # who has a connection leaves nothing
    assert (waiting.given_up, waiting.got) == ([1], ["new", None, None])


async def test_who_leaves_before_a_connect_of_its_own_is_opened_gets_none():
    waiting = Waiting(AT_ONCE + 1)
    waiting.line.leave(waiting.seeking[-1])
    waiting.dials[0]("new", None)
    assert len(waiting.dials) == AT_ONCE


async def test_what_comes_of_a_connect_that_was_given_up_too_late_is_for_who_waits():
    waiting = Waiting(2)
    waiting.line.leave(waiting.seeking[0])
    waiting.dials[0]("new", None)
    assert waiting.got == [None, "new"]
    assert waiting.seeking[0].codes == ["ok"]


async def test_connects_that_nobody_needs_any_more_are_a_few_and_the_oldest_is_given_up(monkeypatch):
    monkeypatch.setattr(line_module, "PROMPT_S", 0.0)
    waiting = Waiting(AT_ONCE + 3)
    await turned(lambda: len(waiting.dials) == AT_ONCE + 3)
    idle = iter(["idle"] * (AT_ONCE + 3) + [None])
    waiting.line.serve(lambda: next(idle))
    assert waiting.given_up == [0, 1, 2]
    for number in (0, 1, 2):
        waiting.dials[number](None, FAILED)
    assert [each.codes for each in waiting.seeking[:3]] == [[]] * 3
    waiting.dials[3](None, FAILED)
    assert waiting.seeking[3].codes == [FAILED.code]
