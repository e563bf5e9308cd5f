"""The end of a gateway of several workers: its limits, and the exit status that comes of the workers' own."""

import signal

import pytest

from gomodel.process.ending import CUT_SHORT, Ending

KILLED, TERM, INT = -signal.SIGKILL, signal.SIGTERM, signal.SIGINT


def test_nothing_is_due_before_it_begins():
    ending = Ending()
    assert (ending.begun, ending.kill_at, ending.status) == (False, float("inf"), 0)
    assert not ending.kills(1e9)


def test_who_does_not_end_within_the_limit_is_killed_once():
    ending = Ending()
    ending.begin(100.0, 30.0)
    assert (ending.begun, ending.kill_at) == (True, 130.0)
    assert [ending.kills(now) for now in (100.0, 129.9, 130.0, 130.1, 1e9)] == [False, False, True, False, False]
    assert ending.kill_at == float("inf")


def test_a_second_signal_shortens_the_limit():
    ending = Ending()
    ending.begin(100.0, 30.0)
    ending.begin(101.0, 3.0, insisted=TERM)
    assert [ending.kills(now) for now in (103.9, 104.0, 130.0)] == [False, True, False]


@pytest.mark.parametrize(
    ("insisted", "workers", "in_order", "status"),
    [
        (0, [], [], 0),
        (0, [0, 0], [True, True], 0),
        (0, [1, 0], [False, True], 1),
        (0, [KILLED], [False], 1),
        (0, [CUT_SHORT], [True], 0),
        (TERM, [], [], 0),
        (TERM, [0, 0], [True, True], 0),
        (TERM, [0, CUT_SHORT], [True, True], 128 + TERM),
        (TERM, [CUT_SHORT, 0], [True, True], 128 + TERM),
        (INT, [1], [True], 128 + INT),
        (INT, [KILLED, 0], [True, True], 128 + INT),
    ],
)
def test_the_status_says_whether_requests_were_cut_short_on_order_or_a_worker_failed(
    insisted, workers, in_order, status
):
    ending = Ending()
    ending.begin(0.0, 30.0)
    if insisted:
        ending.begin(1.0, 3.0, insisted=insisted)
    assert [ending.lost(each) for each in workers] == in_order
    assert ending.status == status


def test_a_failure_stays_one_however_it_ends():
    ending = Ending()
    ending.begin(0.0, 3.0, failed=True)
    assert ending.lost(0)
    assert ending.status == 1
    ending.begin(1.0, 3.0)
    assert ending.status == 1


def test_a_failure_of_a_worker_stays_one_when_the_rest_is_cut_short_on_order():
    ending = Ending()
    ending.begin(0.0, 30.0)
    assert not ending.lost(1)
    ending.begin(1.0, 3.0, insisted=TERM)
    assert ending.status == 1
    assert ending.lost(CUT_SHORT)
    ending.begin(2.0, 3.0)
    assert ending.status == 128 + TERM


def test_what_is_handed_over_has_no_limit_until_it_is_ended():
    ending = Ending()
    ending.hand_over()
    assert (ending.begun, ending.limited, ending.kill_at) == (True, False, float("inf"))
    assert ending.lost(0)
    ending.begin(100.0, 30.0)
    assert (ending.limited, ending.overdue) == (True, False)
    assert ending.kills(130.0)
    assert ending.overdue
