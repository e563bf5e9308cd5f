"""What follows an attempt: every outcome with everything that bears on it, against the rules in words."""

from itertools import product

import pytest

from gomodel.relay.attempts import REFUSALS, Outcome, Step, next_step

UNANSWERED = [each for each in Outcome if each is not Outcome.ANSWERED]
SITUATIONS = [
    pytest.param(*each, id=f"{each[0].name.lower()}-left{each[1]}-" + "".join("ny"[flag] for flag in each[2:]))
    for each in product(UNANSWERED, (0, 1, 2), *[(False, True)] * 4)
]


@pytest.mark.parametrize(("outcome", "left", "others", "held", "moved", "earlier"), SITUATIONS)
def test_the_next_step(outcome, left, others, held, moved, earlier):
    step = next_step(outcome, left=left, others=others, held=held, moved=moved, earlier=earlier)
    match outcome:
        case Outcome.FAILED:
            expected = Step.GIVE
        case Outcome.STALE:
            expected = Step.FRESH if left and held else Step.GIVE
        case Outcome.NOT_CONNECTED:
            expected = Step.LATER if left else Step.GIVE_EARLIER if earlier else Step.GIVE
        case Outcome.UNREACHED:
            expected = Step.NEXT if left and others else Step.GIVE_EARLIER if earlier else Step.GIVE
        case Outcome.UNLOADED:
            expected = Step.NEXT if left and others and held and not moved else Step.GIVE
        case _:
            expected = Step.NEXT if left and others and held else Step.GIVE
    assert step is expected


@pytest.mark.parametrize("outcome", UNANSWERED)
def test_without_attempts_left_nothing_is_tried_again(outcome):
    for others, held, moved, earlier in product((False, True), repeat=4):
        step = next_step(outcome, left=0, others=others, held=held, moved=moved, earlier=earlier)
        assert step in (Step.GIVE, Step.GIVE_EARLIER)


def test_what_did_work_is_no_refusal():
    assert {Outcome.ANSWERED, Outcome.FAILED, Outcome.STALE, Outcome.NOT_CONNECTED, Outcome.UNREACHED} == set(
        Outcome
    ) - REFUSALS
