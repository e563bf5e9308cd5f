"""How events are cut from the pieces of a body, and how they came."""

import pytest

from gomodel.doctor.events import cadence, cut

from .seen import STREAM, stream


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("delimiter", [b"\n\n", b"\r\n\r\n"])
def test_events_are_cut_wherever_reads_end(step: int, delimiter: bytes) -> None:
    data = b"".join(STREAM).replace(b"\n\n", delimiter)
    found = cut([(float(at), data[at : at + step]) for at in range(0, len(data), step)])
    assert len(found.events) == len(STREAM)
    assert (found.done, found.finish, found.usage, found.text, found.rest) == (
        True,
        "length",
        {"total_tokens": 9},
        "abcdef",
        b"",
    )


def test_a_comment_is_no_event() -> None:
    found = cut([(1.0, b": ping\n\nevent: x\ndata: 1\ndata: 2\n\ndata")])
    assert [(event.data, event.lines) for event in found.spoken] == [("1\n2", ("event: x", "data: 1", "data: 2"))]
    assert (found.rest, found.done, found.usage, found.finish) == (b"data", False, None, None)


@pytest.mark.parametrize(
    ("gap_s", "groups", "largest", "paced"), [(0.02, 8, 1, True), (0.0005, 1, 8, False), (0.0, 1, 8, False)]
)
def test_cadence(gap_s: float, groups: int, largest: int, paced: bool) -> None:
    found = cadence(cut(stream(gap_s=gap_s).arrivals).spoken)
    assert (found.events, found.groups, found.largest, found.paced) == (8, groups, largest, paced)


def test_no_events_have_no_cadence() -> None:
    assert cadence([]) == (0, 0, 0, 0.0)
