"""Large and chunked bodies, kept connections, WebSockets."""

from typing import Any

import pytest

from gomodel.doctor import reached
from gomodel.doctor.exchange import Exchange
from gomodel.doctor.findings import Outcome

from .seen import chat, exchange, observed

REFUSED = exchange(b"", 413)
CLOSED = exchange(chat(), kept=False)


def result(outcome: Outcome) -> tuple[str, list[str]]:
    return outcome.state.value, [finding.kind for finding in outcome.findings]


@pytest.mark.parametrize("what", ["large", "chunked"])
def test_bodies(what: str) -> None:
    rule = getattr(reached, what)
    assert result(rule(observed(), observed())) == ("ok", [])
    assert result(rule(observed(), observed(**{what: REFUSED}))) == ("BROKEN", [what])
    assert result(rule(observed(**{what: REFUSED}), observed(**{what: REFUSED}))) == ("unknown", [])
    cut = exchange(b"", 0, end="reset")
    assert rule(observed(), observed(**{what: cut})).brief == "reset without an answer"


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        pytest.param({}, {}, ("ok", []), id="kept"),
        pytest.param({}, {"answers": [CLOSED]}, ("warning", ["closed"]), id="closed"),
        pytest.param({"answers": [CLOSED]}, {"answers": [CLOSED]}, ("ok", []), id="closed directly, too"),
        pytest.param({}, {"second": exchange(b"", 400)}, ("BROKEN", ["second_request"]), id="the second fails"),
        pytest.param({}, {"second": Exchange()}, ("warning", ["closed"]), id="closed, though it said otherwise"),
        pytest.param({"answers": [CLOSED], "second": Exchange()}, {}, ("ok", []), id="kept, but not directly"),
        pytest.param(
            {"answers": [CLOSED], "second": Exchange()},
            {"second": exchange(b"", 400)},
            ("BROKEN", ["second_request"]),
            id="kept, but not directly, and the second fails",
        ),
        pytest.param(
            {"second": exchange(b"", 400)}, {"second": exchange(b"", 400)}, ("unknown", []), id="fails directly, too"
        ),
        pytest.param({}, {"answers": [exchange(chat(), end="closed")]}, ("unknown", []), id="no answer"),
    ],
)
def test_kept_connections(direct: Any, through: Any, expected: Any) -> None:
    assert result(reached.kept(observed(**direct), observed(**through))) == expected


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        pytest.param({}, {}, ("ok", []), id="opened"),
        pytest.param({}, {"websocket": exchange(b"", 400)}, ("BROKEN", ["websocket"]), id="refused"),
        pytest.param({}, {"websocket": exchange(b"", 101, arrivals=[])}, ("BROKEN", ["websocket"]), id="silent"),
        pytest.param({"websocket": exchange(b"", 403)}, {}, ("-", []), id="the instance has none"),
    ],
)
def test_websockets(direct: Any, through: Any, expected: Any) -> None:
    assert result(reached.websocket(observed(**direct), observed(**through))) == expected
