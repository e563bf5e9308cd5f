"""Whom the rules about time accuse: only who delays in every run what comes at once directly."""

from typing import Any

import pytest

from gomodel.doctor import timed
from gomodel.doctor.findings import Outcome, State
from gomodel.doctor.observed import Left

from .seen import EVENTS, exchange, observed, stream

LATE = stream(gap_s=0, at=1.2)
EVEN = stream()


def result(outcome: Outcome) -> tuple[str, list[str]]:
    return outcome.state.value, [finding.kind for finding in outcome.findings]


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        pytest.param([EVEN] * 2, [EVEN] * 2, ("ok", []), id="as made"),
        pytest.param([EVEN] * 2, [LATE] * 2, ("BROKEN", ["buffered"]), id="held back"),
        pytest.param([EVEN] * 2, [LATE, EVEN], ("ok", []), id="held back once"),
        pytest.param([EVEN, LATE], [LATE] * 2, ("unknown", []), id="held back directly, too"),
        pytest.param([EVEN] * 2, [stream(gap_s=0.04)] * 2, ("ok", []), id="half as fast"),
        pytest.param([EVEN] * 2, [stream(gap_s=0)] * 2, ("ok", []), id="at once, and not late: a faster run"),
        pytest.param([EVEN, EVEN, stream(gap_s=0.09)], [LATE] * 3, ("BROKEN", ["buffered"]), id="one slow direct run"),
        pytest.param([EVEN, EVEN, stream(gap_s=0.1)], [LATE] * 3, ("ok", []), id="one that is as slow"),
        pytest.param([EVEN] * 4 + [stream(gap_s=0.5)], [LATE] * 5, ("BROKEN", ["buffered"]), id="one of five slow"),
        pytest.param([EVEN] * 5, [LATE] * 4 + [EVEN], ("BROKEN", ["buffered"]), id="one of five not held"),
        pytest.param([EVEN] * 5, [LATE] * 3 + [EVEN] * 2, ("ok", []), id="two of five not held"),
        pytest.param([EVEN] * 2, [stream(at=1.9)] * 2, ("ok", []), id="late, but as made"),
        pytest.param([stream(gap_s=0.002)] * 2, [LATE] * 2, ("unknown", []), id="too fast to tell"),
        pytest.param([EVEN] * 2, [exchange(b"", 502)] * 2, ("unknown", []), id="no stream"),
        pytest.param(
            [EVEN] * 2,
            [stream(gap_s=0, at=1.2, fields=[*EVENTS, ("Content-Encoding", "identity")])] * 2,
            ("BROKEN", ["compressed"]),
            id="by a coding",
        ),
    ],
)
def test_cadence(direct: Any, through: Any, expected: Any) -> None:
    assert result(timed.steady(observed(streams=direct), observed(streams=through))) == expected


def test_pieces_of_several_events_are_seen_by_their_silences() -> None:
    """As of a buffer with room for four events."""
    events = [b"data: %d\n\n" % number for number in range(16)]
    pieces = [(1.0 + 0.08 * (number // 4), event) for number, event in enumerate(events)]
    even = [(1.0 + 0.02 * number, event) for number, event in enumerate(events)]
    wanted, got = stream(arrivals=even), stream(arrivals=pieces)
    outcome = timed.steady(observed(streams=[wanted] * 2), observed(streams=[got] * 2))
    says = "Events are held back: 16 come by pieces 80 ms apart; directly there are 20 ms between one and the next."
    assert [finding.says for finding in outcome.findings] == [says]


@pytest.mark.parametrize(
    ("through", "expected"),
    [
        pytest.param([stream(at=1.1)] * 2, ("ok", []), id="a tenth of a second"),
        pytest.param([stream(at=1.9)] * 2, ("warning", ["slow"]), id="most of a second"),
        pytest.param([stream(at=1.9), EVEN], ("ok", []), id="once"),
        pytest.param([stream(at=1.9, gap_s=0)] * 2, ("ok", []), id="held back, which is another rule's"),
        pytest.param([exchange(b"", 502)] * 2, ("unknown", []), id="no event"),
    ],
)
def test_first_byte(through: Any, expected: Any) -> None:
    assert result(timed.first_byte(observed(), observed(streams=through))) == expected


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        pytest.param(Left(0.1), Left(0.3), ("ok", []), id="freed"),
        pytest.param(Left(0.1), Left(None, 3.0), ("BROKEN", ["never_cancels"]), id="goes on"),
        pytest.param(Left(None, 3.0), Left(None, 3.0), ("unknown", []), id="not even directly"),
        pytest.param(Left(unknown="others use it now"), Left(0.1), ("unknown", []), id="in use"),
        pytest.param(Left(0.1), Left(unknown="502"), ("unknown", []), id="not begun"),
    ],
)
def test_who_leaves(direct: Left, through: Left, expected: Any) -> None:
    unseen = Left(unknown="not asked")
    seen = [observed(left=each, left_whole=unseen) for each in (direct, through)]
    assert result(timed.left(*seen)) == expected
    seen = [observed(left=unseen, left_whole=each) for each in (direct, through)]
    assert result(timed.left(*seen)) == expected


def test_who_leaves_an_answer_as_one_body_is_told_from_who_leaves_a_stream() -> None:
    outcome = timed.left(observed(), observed(left_whole=Left(None, 3.0)))
    says = "The engine still works 3.0 s after a client left an answer as one body; directly it stops within 0.05 s."
    assert [finding.says for finding in outcome.findings] == [says]


def silent(took_s: float, status: int = 200, **more: Any) -> Any:
    return exchange(b"{}", status, asked_at=1.0, head_at=1.0 + took_s, ended_at=1.0 + took_s, **more)


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        pytest.param(silent(62), silent(63), ("ok", []), id="passed"),
        pytest.param(silent(62), silent(60, 504), ("BROKEN", ["idle"]), id="given up"),
        pytest.param(silent(62), silent(60, 0, end="closed"), ("BROKEN", ["idle"]), id="closed"),
        pytest.param(silent(20), silent(20), ("unknown", []), id="too short a context"),
        pytest.param(silent(62, 500), silent(60, 500), ("unknown", []), id="not even directly"),
        pytest.param(None, None, ("-", []), id="not asked"),
    ],
)
def test_a_silence(direct: Any, through: Any, expected: Any) -> None:
    seen = [observed(silence=each, silence_s=60.0) for each in (direct, through)]
    assert result(timed.silence(*seen)) == expected


def test_a_silence_that_is_given_up_says_after_how_long() -> None:
    outcome = timed.silence(*(observed(silence=each, silence_s=60.0) for each in (silent(72), silent(60, 504))))
    assert outcome.findings[0].says == "An answer that takes 72 s is given up after 60 s: 504."
    assert outcome.state is State.BROKEN


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        ([EVEN] * 2, [EVEN] * 2, False),
        ([EVEN] * 2, [LATE] * 2, True),
        ([EVEN, stream(gap_s=0.5)], [LATE] * 2, True),
        ([EVEN] * 2, [LATE, EVEN], True),
        ([EVEN] * 2, [exchange(b"", 502)] * 2, False),
        ([LATE] * 2, [LATE] * 2, False),
    ],
)
def test_what_is_asked_again_before_somebody_is_accused(direct: Any, through: Any, expected: bool) -> None:
    assert timed.doubtful(observed(streams=direct), observed(streams=through)) is expected
