"""How events are cut from the pieces of a body, and how they came."""

import pytest

from gomodel.doctor.events import cadence, cut

from .seen import STREAM


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
    ("times", "span_s", "silence_s"),
    [
        pytest.param([0.0, 0.1, 0.2, 0.3, 0.4], 0.4, 0.1, id="one by one"),
        pytest.param([0.0, 0.0, 0.2, 0.2, 0.4], 0.4, 0.2, id="by twos"),
        pytest.param([0.0, 0.0, 0.0, 0.0, 0.0], 0.0, 0.0, id="all at once"),
        pytest.param([0.1 * at for at in range(51)] + [5.3], 5.3, 0.11, id="a machine that stands still once"),
        pytest.param([1.0], 0.0, 0.0, id="one"),
        pytest.param([], 0.0, 0.0, id="none"),
    ],
)
def test_cadence(times: list[float], span_s: float, silence_s: float) -> None:
    found = cadence(cut([(at, b"data: x\n\n") for at in times]).spoken)
    assert (found.events, round(found.span_s, 6), round(found.silence_s, 2)) == (len(times), span_s, silence_s)
