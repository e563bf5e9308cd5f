"""Log lines: one per record whatever is in them, and never a wait for their reader."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from gomodel.telemetry import logs
from gomodel.telemetry.logs import PENDING_BYTES, JsonFormatter, Outlet, TextFormatter, configure_logging

from ...harness.leaks import nothing_left

HOSTILE = {
    "a line break": 'm"\n{"level":"error"}',
    "a carriage return": "m\r\rstatus=200",
    "a terminal's orders": "m\x1b]0;owned\x07\x1b[2J",
    "orders of eight bits": "m\x9b2J\x85",
    "a line separator": "m\u2028m\u2029",
    "reading from the right": "m\u202egnp.exe",
    "half a character": "m\ud800",
    "nul": "m\0",
    "another field": "m status=200",
    "a quote": 'm" status="200',
    "a backslash": "m\\",
    "letters of any alphabet": "модель-模型",
}


def record(message: str = "", level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("gomodel.access", level, __file__, 1, message, (), None)
    made.created = 1795421102.0425
    if fields:
        made.fields = fields
    return made


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
class TestAHostileValue:
    def test_stays_one_ascii_line_of_json_that_says_the_same(self, value):
        line = JsonFormatter().format(record(model=value, status=404))
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line) == {
            "time": "2026-11-23T08:05:02.042Z",
            "level": "info",
            "logger": "gomodel.access",
            "model": value,
            "status": 404,
        }

    def test_stays_one_word_of_text(self, value):
        line = TextFormatter().format(record(model=value, status=404))
        assert line.isprintable()
        assert line.startswith("2026-11-23T08:05:02.042Z INFO    model=")
        assert line.endswith(" status=404")
        shown = line.removeprefix("2026-11-23T08:05:02.042Z INFO    model=").removesuffix(" status=404")
        assert shown == value or json.loads(shown) == value
        assert " status=" not in shown or shown.startswith('"')


def test_a_message_of_several_lines_is_one_line_of_text():
    assert TextFormatter().format(record("one\ntwo\x1b[2J")).endswith("INFO    one\\ntwo\\u001b[2J")


def test_a_message_and_fields_are_both_in_the_json():
    line = json.loads(JsonFormatter().format(record("reloaded", logging.WARNING, instances=2)))
    assert (line["level"], line["message"], line["instances"]) == ("warning", "reloaded", 2)


def test_a_record_with_nothing_in_it_is_still_json():
    assert json.loads(JsonFormatter().format(record()))["message"] == ""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logging.DEBUG, "\x1b[2mDEBUG  \x1b[0m up"),
        (logging.INFO, "INFO    up"),
        (logging.WARNING, "\x1b[33mWARNING\x1b[0m up"),
        (logging.ERROR, "\x1b[31mERROR  \x1b[0m up"),
    ],
)
def test_the_level_has_a_colour_on_a_terminal_that_shows_them(level, shown):
    made = record("up")
    made.levelno, made.levelname = level, logging.getLevelName(level)
    assert TextFormatter(colours=True).format(made).endswith(f"Z {shown}")
    assert "\x1b" not in TextFormatter().format(made)


def test_fields_without_a_value_are_left_out_of_the_text():
    assert TextFormatter().format(record(model="", first_byte_ms=None, bytes_in=0)).endswith("INFO    bytes_in=0")


def test_a_traceback_is_kept_and_is_one_line_of_json():
    try:
        raise ValueError("why")
    except ValueError:
        made = record("failed", logging.ERROR)
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: why")
    assert TextFormatter().format(made).endswith("\nValueError: why")


def test_a_named_worker_is_in_every_line(monkeypatch):
    monkeypatch.setattr(logs, "_worker", "")
    logs.name_worker("2-4711")
    line = json.loads(JsonFormatter().format(record("Instance vllm is up", model="m")))
    assert (line["logger"], line["worker"], line["message"], line["model"]) == (
        "gomodel.access",
        "2-4711",
        "Instance vllm is up",
        "m",
    )
    assert TextFormatter().format(record("up", model="m")).endswith("INFO    up model=m worker=2-4711")


def test_time_goes_on():
    first, later = record("x"), record("x")
    later.created += 1.5
    assert json.loads(JsonFormatter().format(first))["time"] == "2026-11-23T08:05:02.042Z"
    assert json.loads(JsonFormatter().format(later))["time"] == "2026-11-23T08:05:03.542Z"


class Pipe:
    """A log's descriptor and its reader."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.outlet = Outlet(self.writing)
        self.outlet.setFormatter(JsonFormatter())
        self.read = b""

    def messages(self) -> list[str]:
        """All messages so far."""
        try:
            while piece := os.read(self.reading, 1 << 16):
                self.read += piece
        except BlockingIOError:
            pass
        return [json.loads(line)["message"] for line in self.read.splitlines()]

    def log(self, message: str, level: int = logging.INFO) -> None:
        self.outlet.handle(record(message, level))

    def fill(self) -> int:
        """Fill the pipe as a reader that reads no more would leave it; how many bytes it took."""
        os.set_blocking(self.writing, False)
        count = 0
        try:
            while True:
                count += os.write(self.writing, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writing, True)  # now a careless write would block the test
        return count


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.outlet._pending.clear()
    made.outlet.close()
    for fd in (made.reading, made.writing):
        try:
            os.close(fd)
        except OSError:
            pass


class TestOutlet:
    def test_writes_at_once_without_a_loop(self, pipe):
        pipe.log("a")
        assert pipe.messages() == ["a"]

    async def test_writes_the_lines_of_one_turn_together(self, pipe, monkeypatch):
        writes = []
        real = os.write
        monkeypatch.setattr(logs.os, "write", lambda fd, data: writes.append(data) or real(fd, data))
        for each in "abc":
            pipe.log(each)
        assert pipe.messages() == []
        await asyncio.sleep(0)
        assert pipe.messages() == ["a", "b", "c"]
        assert len(writes) == 1

    async def test_writes_again_in_the_next_turn(self, pipe):
        for each in "ab":
            pipe.log(each)
            await asyncio.sleep(0)
        assert pipe.messages() == ["a", "b"]

    async def test_a_warning_leaves_at_once_and_behind_what_came_before(self, pipe):
        pipe.log("a")
        pipe.log("b", logging.WARNING)
        assert pipe.messages() == ["a", "b"]

    async def test_the_rest_is_written_at_the_end(self, pipe):
        pipe.log("a")
        pipe.outlet.close()
        assert pipe.messages() == ["a"]

    def test_lines_longer_than_a_pipe_takes_at_once_arrive_whole(self, pipe):
        long = "x" * 10_000
        for each in (long, "b", long):
            pipe.log(each)
        assert pipe.messages() == [long, "b", long]

    def test_nobody_waits_for_a_reader_that_does_not_read(self, pipe):
        pipe.fill()
        pipe.log("a")
        pipe.log("b", logging.ERROR)
        os.read(pipe.reading, 1 << 20)
        pipe.log("c")
        assert pipe.messages() == ["a", "b", "c"]

    def test_nobody_waits_for_a_reader_that_has_read_less_than_a_line(self, pipe):
        pipe.fill()
        os.read(pipe.reading, 4096)
        long = "x" * 10_000
        pipe.log(long)
        pipe.read = os.read(pipe.reading, 1 << 20).lstrip(b"\n")
        pipe.outlet.flush()
        assert pipe.messages() == [long]

    async def test_lines_that_waited_leave_when_the_reader_reads_again(self, pipe, monkeypatch):
        monkeypatch.setattr(logs, "_RETRY_S", 0.001)
        pipe.fill()
        pipe.log("a")
        await asyncio.sleep(0)
        os.read(pipe.reading, 1 << 20)
        await nothing_left(lambda: [] if pipe.messages() == ["a"] else ["a line that waits"])

    def test_what_waits_is_bounded_and_what_was_dropped_is_said(self, pipe):
        pipe.fill()
        line = "x" * 1000
        count = PENDING_BYTES // 1000 + 100
        for _ in range(count):
            pipe.log(line)
        assert pipe.outlet._pending_bytes < PENDING_BYTES + 2000
        os.read(pipe.reading, 1 << 20)
        messages: list[str] = []
        while not messages or messages[-1] == line:
            pipe.outlet.flush()
            messages = pipe.messages()
        kept = len(messages) - 1
        assert messages[:-1] == [line] * kept
        assert messages[-1] == f"{count - kept} log lines were dropped because nobody read the log"

    def test_goes_on_without_a_reader(self, pipe):
        os.close(pipe.reading)
        pipe.log("a")
        pipe.log("b", logging.ERROR)
        assert (len(pipe.outlet._pending), pipe.outlet._pending_bytes) == (0, 0)

    def test_goes_on_without_a_descriptor(self, pipe):
        os.close(pipe.writing)
        pipe.log("a")
        assert not pipe.outlet._pending

    def test_a_record_that_cannot_be_formatted_stops_nobody(self, pipe, monkeypatch):
        monkeypatch.setattr(logging, "raiseExceptions", False)
        broken = logging.LogRecord("gomodel", logging.INFO, __file__, 1, "%d", ("x",), None)
        pipe.outlet.handle(broken)
        pipe.log("a")
        assert pipe.messages() == ["a"]


class TestConfigureLogging:
    @pytest.fixture(autouse=True)
    def restored(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in ("gomodel", "asyncio")]
        before = [(each.handlers, each.filters.copy(), each.propagate, each.level) for each in loggers]
        yield
        for handler in loggers[0].handlers:
            handler.close()
        for logger, (handlers, filters, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.filters, logger.propagate = handlers, filters, propagate
            logger.setLevel(level)

    @pytest.mark.parametrize(("form", "start"), [("json", '{"time": "'), ("text", "20"), ("auto", '{"time": "')])
    def test_lines_go_to_standard_error_in_the_form_asked_for(self, capfd, form, start):
        configure_logging("info", form)
        logging.getLogger("gomodel").info("hello")
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(start)
        assert "hello" in err

    def test_lines_below_the_level_are_not_written(self, capfd):
        configure_logging("warning", "text")
        logging.getLogger("gomodel.access").info("hello")
        assert capfd.readouterr().err == ""

    def test_text_is_for_terminals(self, monkeypatch, capfd):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        configure_logging("info", "auto")
        logging.getLogger("gomodel").info("hello")
        assert not capfd.readouterr().err.startswith("{")

    def test_works_where_standard_error_is_no_descriptor(self, capsys):
        configure_logging("info", "text")
        logging.getLogger("gomodel").info("hello")
        assert "hello" in capsys.readouterr().err

    def test_a_second_call_replaces_the_first(self, capfd):
        configure_logging("info", "text")
        configure_logging("info", "text")
        logging.getLogger("gomodel").info("hello")
        assert capfd.readouterr().err.count("hello") == 1

    @pytest.mark.parametrize(
        ("level", "shown"),
        [("debug", ["debug", "warning", "error"]), ("info", ["warning", "error"]), ("error", ["error"])],
    )
    def test_what_the_event_loop_says_is_in_the_same_form_and_peers_that_are_gone_are_for_debugging(
        self, capfd, level, shown
    ):
        for _ in range(2):
            configure_logging(level, "json")
        loop = logging.getLogger("asyncio")
        loop.debug("Using selector: %s", "EpollSelector")
        loop.warning("socket.send() raised exception.")
        loop.warning("Executing %s took %.3f seconds", "something", 2.0)
        loop.error("Task exception was never retrieved")
        assert [json.loads(line)["level"] for line in capfd.readouterr().err.splitlines()] == shown
