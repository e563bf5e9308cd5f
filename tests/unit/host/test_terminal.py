"""Where colours are shown."""

import pytest

from gomodel.host.terminal import coloured, shows_colours


class Screen:
    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("environ", "terminal", "shown"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": "0"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm-256color"}, True, True),
    ],
)
def test_colours_are_shown_on_a_terminal_unless_nobody_wants_them(
    environ: dict[str, str], terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert shows_colours(Screen(terminal=terminal)) is shown


def test_a_stream_that_is_closed_shows_none() -> None:
    assert not shows_colours(None)


@pytest.mark.parametrize(("mood", "code"), [("good", "32"), ("bad", "31"), ("doubtful", "33"), ("dim", "2")])
def test_a_colour_ends_with_its_text(mood: str, code: str) -> None:
    assert coloured("up", mood) == f"\x1b[{code}mup\x1b[0m"
