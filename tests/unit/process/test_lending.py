"""Who reads for a place without a worker, and when a worker that wants to leave may."""

import pytest

from gomodel.process.lending import Lending
from gomodel.process.restarts import Place


class Worker:
    """One that notes what it is told."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.heard = True
        self.leaving = False
        self.told: list[tuple[object, ...]] = []

    def send(self, *message: object) -> None:
        self.told.append(message)


class House:
    """Three workers that are ready."""

    def __init__(self) -> None:
        self.places = [Place(index, ready=True) for index in (1, 2, 3)]
        self.workers = [Worker(place) for place in self.places]
        self.lending = Lending(self._lend)
        self.deaf: list[Worker] = []  # whose socket is full

    def _lend(self, worker: Worker, index: int) -> bool:
        if worker in self.deaf:
            return False
        worker.send("read", index)
        return True

    def lose(self, at: int) -> None:
        """A worker dies."""
        self.places[at].ready = False
        self.workers[at].heard = False

    def settle(self) -> list[list[tuple[object, ...]]]:
        """What each is told now."""
        self.lending.settle(self.places, self.workers)
        told = [each.told for each in self.workers]
        for each in self.workers:
            each.told = []
        return told


@pytest.fixture
def house() -> House:
    return House()


def test_nobody_is_told_anything_while_all_are_there(house: House) -> None:
    assert house.settle() == [[], [], []]


def test_one_that_is_gone_is_read_for_by_one_other_until_another_has_its_place(house: House) -> None:
    house.lose(0)
    assert house.settle() == [[], [("read", 1)], []]
    assert house.settle() == [[], [], []]
    house.workers[0] = Worker(house.places[0])  # started, and not ready
    assert house.settle() == [[], [], []]
    house.places[0].ready = True
    assert house.settle() == [[], [("give_back", 1)], []]


def test_who_reads_for_fewest_reads_for_the_next(house: House) -> None:
    house.workers.append(Worker(Place(4, ready=True)))
    house.places.append(house.workers[-1].place)
    house.lose(0)
    house.lose(1)
    assert house.settle() == [[], [], [("read", 1)], [("read", 2)]]


def test_what_a_reader_that_dies_has_read_goes_to_another(house: House) -> None:
    house.lose(0)
    house.settle()
    house.lose(1)
    assert house.settle() == [[], [], [("read", 1), ("read", 2)]]


def test_one_that_cannot_be_told_is_passed_over(house: House) -> None:
    house.deaf = [house.workers[1]]
    house.lose(0)
    assert house.settle() == [[], [], [("read", 1)]]
    house.deaf = house.workers
    house.lose(2)
    assert house.settle() == [[], [], []]
    house.deaf = []
    assert house.settle() == [[], [("read", 1), ("read", 3)], []]


def test_who_wants_to_leave_may_once_another_reads_its_queue(house: House) -> None:
    house.workers[0].leaving = True
    assert house.settle() == [[("leave",)], [("read", 1)], []]


def test_who_leaves_has_what_it_read_for_others_read_by_another(house: House) -> None:
    house.lose(0)
    house.settle()
    house.workers[1].leaving = True
    assert house.settle() == [[], [("leave",)], [("read", 1), ("read", 2)]]


def test_the_last_one_stays_until_another_is_ready(house: House) -> None:
    for each in house.workers:
        each.leaving = True
    assert house.settle() == [[], [], []]
    house.lose(1)
    assert house.settle() == [[], [], []]
    house.workers[1] = Worker(house.places[1])
    house.places[1].ready = True
    assert house.settle() == [[("leave",)], [("read", 1), ("read", 3)], [("leave",)]]


def test_who_wants_to_leave_waits_again_when_its_reader_died_meanwhile(house: House) -> None:
    house.lose(0)
    house.settle()  # the second reads for the first
    house.lose(1)
    house.workers[0] = Worker(house.places[0])
    house.places[0].ready = True
    house.workers[0].leaving = house.workers[2].leaving = True
    assert house.settle() == [[], [], []]
