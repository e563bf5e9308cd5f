"""What of a conversation is in flight: seen by all workers, without what a dead one had."""

import os

from gomodel.balancing.keys_in_flight import PLACES, KeysInFlight


def test_what_enters_is_counted_until_it_leaves():
    keys = KeysInFlight()
    keys.enter(7)
    keys.enter(7)
    keys.enter(8)
    assert [keys.total(each) for each in (7, 8, 9)] == [2, 1, 0]
    keys.leave(7)
    assert [keys.total(each) for each in (7, 8, 9)] == [1, 1, 0]


def test_any_key_has_a_place():
    keys = KeysInFlight(3)
    for key in (0, PLACES - 1, PLACES, (1 << 64) - 1):
        before = keys.total(key)
        keys.enter(key)
        assert keys.total(key) == before + 1


def test_a_worker_sees_what_the_others_have_and_not_what_a_dead_one_had():
    keys = KeysInFlight(3)
    for row in (1, 2):
        child = os.fork()
        if not child:
            keys.take(row)
            for _ in range(row):
                keys.enter(5)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    keys.enter(5)
    assert keys.total(5) == 4
    keys.clear(2)
    assert (keys.total(5), keys.total(6)) == (2, 0)


def test_each_worker_has_a_row_of_its_own_and_loses_that_alone():
    keys = KeysInFlight(3)
    for row in (0, 1, 2):
        keys.take(row)
        for _ in range(10**row):
            keys.enter(5)
            keys.enter(PLACES - 1)
    for row, left in ((1, 101), (0, 100), (2, 0)):
        keys.clear(row)
        assert (keys.total(5), keys.total(PLACES - 1)) == (left, left)
