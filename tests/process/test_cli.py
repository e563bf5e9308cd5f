"""What `python -m gomodel` says and how it exits, when it is not asked to serve."""

import asyncio
import io
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gomodel import __main__ as cli
from gomodel.balancing import model_entries
from gomodel.commands import serve, table
from gomodel.commands.command import WRONG_USE
from gomodel.commands.table import COMMANDS
from gomodel.config.keys_file import parse
from gomodel.config.load import from_environ
from gomodel.config.registry import VARIABLES
from gomodel.config.settings import Config
from gomodel.version import build

from ..harness.processes import ROOT, RUN, Run
from ..harness.scripted import SAFETY_S, ScriptedUpstream, Stall, env_for, json_response, response


def test_version_names_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.command(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gomodel {build()}\n"


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.command([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [None, *(each.name for each in COMMANDS)])
def test_help_fits_a_screen(
    name: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(capsys, *([name] if name else [])).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_help_has_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(help_of(capsys).split())
    for each in COMMANDS:
        assert f" {each.name} {each.summary} " in text


@pytest.mark.parametrize("name", [each.name for each in COMMANDS])
def test_every_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, name)
    assert text.startswith(f"usage: gomodel {name} [-h]")
    summary = next(each.summary for each in COMMANDS if each.name == name)
    assert summary[1:] in " ".join(text.split())


def test_the_help_of_serve_names_the_variables_that_are_needed_first_and_every_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(capsys, "serve")
    variables = text.partition("variables most used")[2].partition("\n\n")[0].split("\n", 1)[1].split()
    assert variables == [each.name for each in VARIABLES.values() if each.first]
    for status in ("0  ", "1  ", "2, 64 ", "128+n"):
        assert f"\n  {status}" in text


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_a_shell_completes_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(each.name in script for each in COMMANDS)
    assert "window" in script


def test_bash_completes_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli.command(["--completion", "bash"])
    script = capsys.readouterr().out
    asked = f"{script}\nCOMP_WORDS=(gomodel ne)\nCOMP_CWORD=1\n_shtab_gomodel\necho ${{COMPREPLY[@]}}\n"
    said = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["new-key"]


def test_completion_without_its_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.command(["--completion", "bash"]) == 1
    assert "pip install 'gomodel[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["srve"], ["batch"], ["batch", "x.jsonl"], ["demo", "--rate", "-1"], ["serve", "--port", "1"]]
)
def test_wrong_use_says_what_to_do_in_two_lines(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.command(arguments)
    assert ended.value.code == WRONG_USE
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("gomodel")
    assert re.fullmatch(r"For what it takes: gomodel( \w+)? --help", second)


@pytest.mark.parametrize(
    ("arguments", "name", "rate"),
    [
        ([], "serve", None),
        (["serve"], "serve", None),
        (["check"], "check", None),
        (["--check"], "check", None),
        (["demo"], "demo", None),
        (["demo", "--rate", "5"], "demo", 5.0),
        (["--demo"], "demo", None),
        (["--demo", "--rate", "5"], "demo", 5.0),
        (["--rate", "5", "--demo"], "demo", 5.0),
        (["--rate=5", "--demo", "--port=0"], "demo", 5.0),
    ],
)
def test_commands_and_the_flags_of_the_first_release_mean_the_same(
    arguments: list[str], name: str, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def note(name: str) -> Callable[[Any], int]:
        return lambda options: asked.append((name, options)) or 7

    noting = tuple(each._replace(run=note(each.name)) for each in COMMANDS)
    monkeypatch.setattr(table, "COMMANDS", noting)
    monkeypatch.setattr(cli, "SERVE", noting[0])
    assert cli.command(arguments) == 7
    [(found, options)] = asked
    assert found == name
    assert getattr(options, "rate", None) == rate


def test_the_example_is_printed_as_it_is_in_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command(["--example-env"]) == 0
    assert capsys.readouterr().out == (ROOT / ".env.example").read_text()


async def test_the_example_needs_no_file_beside_the_program(run: Run) -> None:
    process = await run({}, "--example-env")
    assert await process.ended() == 0
    assert process.output == (ROOT / ".env.example").read_text()


@pytest.mark.parametrize("arguments", [[], ["serve"], ["check"], ["demo"], ["--check"], ["--demo"]])
@pytest.mark.parametrize("system", ["darwin", "freebsd14", "win32"])
def test_on_another_system_than_linux_it_says_so_and_does_nothing(
    arguments: list[str], system: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(serve, "Signals", pytest.fail)
    assert cli.command(arguments) == 1
    assert capsys.readouterr().err.startswith(f"gomodel runs on Linux; this is {system}.")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--example-env", "--check"], "unrecognized arguments: --example-env"),
        (["--chek"], "unrecognized arguments"),
        (["server"], "invalid choice: 'server'"),
        (["serve", "now"], "unrecognized arguments"),
        (["--check", "--demo"], "unrecognized arguments: --demo"),
        (["check", "--demo"], "unrecognized arguments: --demo"),
        (["--rate", "5"], "go with demo"),
        (["--port", "5"], "go with demo"),
        (["serve", "--port", "5"], "set with PORT"),
        (["check", "--rate=5"], "go with demo"),
        (["demo", "--rate", "-1"], "--rate: invalid number value"),
        (["--demo", "--rate", "nan"], "--rate: invalid number value"),
        (["demo", "--port", "65536"], "--port: invalid number value"),
        (["--demo", "--port", "http"], "--port: invalid number value"),
    ],
)
def test_wrong_use_is_status_2(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.command(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["serve"], ["check"]])
async def test_every_problem_of_the_configuration_is_listed_and_nothing_is_bound(
    run: Run, arguments: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {"PORT": str(taken.getsockname()[1]), "BODY_SIZE_LIMIT": "much", "VLLM_A_API_KEY": "secret-4711"}
        process = await run({**environ, "LOG_LEVEL": "loud"}, *arguments)
        assert await process.ended() == 64
    assert process.lines[0] == "gomodel: the configuration has 3 problems:"
    assert sorted(line.split(":")[0].strip() for line in process.lines[1:]) == [
        "BODY_SIZE_LIMIT",
        "LOG_LEVEL",
        "VLLM_A_API_KEY",
    ]
    assert "secret-4711" not in process.text + process.output


@pytest.mark.parametrize("arguments", [[], ["check"]])
async def test_names_that_are_not_read_are_said_beside_the_problems_that_they_may_explain(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / ".env").write_text("VLM_A_BASE_URL=http://a/v1\nVLLM_A_API_KEY=x\nPORT=1\nPORT=2\n")
    process = await run({"GOMODEL_MASTERKEY": "secret-4711"}, *arguments)
    assert await process.ended() == 64
    assert process.lines == [
        "gomodel: the configuration has 1 problem:",
        "  VLLM_A_API_KEY: is set but VLLM_A_BASE_URL is not; the instance vllm-a has no address",
        "warning: .env line 4: PORT is set again; line 3 has no effect",
        "warning: GOMODEL_MASTERKEY is not a variable of gomodel; the nearest is GOMODEL_MASTER_KEY",
        "warning: VLM_A_BASE_URL is not a variable of gomodel; the nearest is VLLM_BASE_URL",
    ]


async def test_an_env_file_that_cannot_be_read_is_a_problem_of_the_configuration(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    process = await run()
    assert await process.ended() == 64
    assert process.lines == ["gomodel: the configuration has 1 problem:", "  .env: cannot be read: Is a directory"]


async def test_check_prints_a_table_and_is_status_0_when_every_instance_is_well(run: Run, make_upstream: Any) -> None:
    one, other = await make_upstream(models=("a", "b", "c", "d")), await make_upstream(models=())
    keys = {"VLLM_API_KEY": "secret-4711", "GOMODEL_MASTER_KEY": "secret-4712"}
    process = await run({**env_for(vllm=one, vllm_test=other), **keys}, "check")
    assert await process.ended() == 0
    head, first, second, _, verdict = process.output.splitlines()
    assert head.split() == ["INSTANCE", "URL", "KEY", "STATE", "MODELS"]
    assert re.fullmatch(rf"vllm +{re.escape(one.base_url)} +yes +ok, \d+ ms +4: a, b, c, \.\.\.", first)
    assert re.fullmatch(rf"vllm-test +{re.escape(other.base_url)} +no +ok, \d+ ms +0:", second)
    assert verdict == "Configuration OK."
    assert [("authorization: bearer secret-4711" in each.raw.decode().lower()) for each in one.probes] == [True]
    assert "secret" not in process.text + process.output


async def test_check_says_at_a_terminal_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from gomodel.process import check

    told = asyncio.Event()

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if "Waiting for 1 server of 2 ..." in text:
                told.set()
            return super().write(text)

    async def ask(replica: Any) -> Any:
        if replica == "slow":
            async with asyncio.timeout(SAFETY_S):
                await told.wait()
        return replica

    monkeypatch.setattr(check, "_ask", ask)
    monkeypatch.setattr(check, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    replicas: Any = ["slow", "quick"]
    assert await check._ask_all(replicas) == replicas
    assert screen.getvalue().endswith("\r\x1b[K")  # and nothing is left of it


async def test_check_colours_what_is_well_and_what_is_not_at_a_terminal(
    make_upstream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gomodel.process import check

    monkeypatch.setattr(check, "shows_colours", lambda stream: True)
    well, dead = await make_upstream(), await make_upstream()
    dead.stop_listening()
    _, output = await checked(from_environ(env_for(vllm=well, vllm_dead=dead)), capsys)
    assert re.search(r"\x1b\[32mok, \d+ ms *\x1b\[0m", output)
    assert re.search(r"\x1b\[31mconnection refused *\x1b\[0m", output)
    assert output.count("\x1b") == 4


def test_a_new_key_is_shown_once_and_its_entry_can_go_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for _ in range(2):
        assert cli.command(["new-key", "alice"]) == 0
        shown = capsys.readouterr()
        (key,) = re.findall(r"^  (sk-gomodel-[\w-]{43})$", shown.err, re.MULTILINE)
        assert key not in shown.out
        (entry,) = parse(shown.out.encode())
        assert (entry.name, entry.digests) == ("alice", (sha256(key.encode()).digest(),))
        made.append(key)
    assert made[0] != made[1]


@pytest.mark.parametrize("name", ["al ice", "", "master", "a" * 65, "a\nb"])
def test_a_name_that_no_entry_could_have_gets_no_key(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command(["new-key", name]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("gomodel new-key: ")


async def checked(config: Config, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    from gomodel.process.check import print_table

    well = await print_table(config)
    return bool(well), capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "environ", "state", "hint"),
    [
        (response(b"no", 401), {}, "wants a key", "Set VLLM_API_KEY to the key"),
        (response(b"no", 401), {"VLLM_API_KEY": "wrong"}, "refuses the key", "Set VLLM_API_KEY to the key"),
        (response(b"no", 404), {}, "GET /models: status 404", "VLLM_BASE_URL must be the base URL of a vLLM"),
        (response(b"no", 503), {}, "GET /models: status 503", "its own log says why"),
        (response(b"<html>"), {}, "GET /models: no JSON", "VLLM_BASE_URL must be the base URL of a vLLM"),
        (response(b"\xff\xfe"), {}, "GET /models: no JSON", "VLLM_BASE_URL must be the base URL of a vLLM"),
        (
            json_response({"object": "list"}),
            {},
            "GET /models: no list of models",
            "VLLM_BASE_URL must be the base URL of a vLLM",
        ),
        (b"HELO\r\n\r\n", {}, "no valid HTTP answer", ""),
        (Stall(), {}, "no answer in time", "does not answer"),
    ],
    ids=["key wanted", "key refused", "no such route", "dead", "no JSON", "no text", "no list", "no HTTP", "silence"],
)
async def test_check_says_what_is_wrong_with_an_instance(
    answer: Any,
    environ: Mapping[str, str],
    state: str,
    hint: str,
    upstream: ScriptedUpstream,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if answer == Stall():
        monkeypatch.setattr(model_entries, "_FETCH_LIMIT_S", 0.3)
    upstream.on_request(answer, path="/v1/models")
    upstream.lenient = True  # whether it speaks TLS is asked when it does not speak HTTP
    well, output = await checked(from_environ({**env_for(vllm=upstream), **environ}), capsys)
    assert not well
    assert f"  {state} " in output
    assert [hint in line for line in output.splitlines() if line.startswith("vllm: ")] == ([True] if hint else [])
    assert "1 of 1 instances cannot be used." in output


async def test_check_is_not_well_when_one_of_several_instances_refuses_connections(
    upstream: ScriptedUpstream, make_upstream: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = await make_upstream()
    dead.stop_listening()
    well, output = await checked(from_environ(env_for(vllm=upstream, vllm_dead=dead)), capsys)
    assert not well
    assert re.search(r"^vllm .* ok, ", output, re.MULTILINE)
    assert re.search(r"^vllm-dead .* connection refused ", output, re.MULTILINE)
    assert re.search(r"^vllm-dead: .* correct VLLM_DEAD_BASE_URL; ", output, re.MULTILINE)


async def test_check_reaches_an_instance_on_a_unix_socket(
    make_upstream: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "vllm.sock")
    upstream = await make_upstream(unix_path=path)
    well, output = await checked(from_environ(env_for(vllm=upstream)), capsys)
    assert well
    assert f"on unix:{path}" in output


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_demo_prints_lines_that_work(run: Run, tmp_path: Path) -> None:
    process = await run({"VLLM_OWN_BASE_URL": "http://127.0.0.1:1/v1"}, "demo", "--rate", "0", "--port", "0")
    await process.until("guide", lambda: "  key: demo\n" in process.output)
    assert "serves in front of a simulation" in process.output
    # The last lines, and no line of the log behind them.
    assert re.search(r"  http://127\.0\.0\.1:\d+/\n  key: demo\n\Z", process.output)
    commands = re.findall(r"^  (curl (?:.*\\\n)?.*)$", process.output, re.MULTILINE)
    answers = []
    for command in commands:
        shell = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(SAFETY_S):
            answers.append((await shell.communicate())[0].decode())
    listed, chat, stream, tokens = answers
    assert '"vllm/demo/llama-sim"' in listed
    assert '"vllm-test/demo/qwen-sim"' in listed
    assert "vllm-own" not in listed
    assert '"chat.completion"' in chat
    assert stream.endswith("data: [DONE]\n\n")
    assert '"count"' in tokens
    assert process.text == ""
    (tmp_path / "requests.jsonl").write_text(
        '{"custom_id":"a","method":"POST","url":"/v1/chat/completions",'
        '"body":{"model":"vllm/demo/llama-sim","messages":[{"role":"user","content":"Hi"}]}}\n'
    )
    (command,) = re.findall(r"^  (OPENAI.*)$", process.output, re.MULTILINE)
    program = f"{sys.executable} -m gomodel batch"
    shell = await asyncio.create_subprocess_shell(command.replace("gomodel batch", program), cwd=tmp_path)
    async with asyncio.timeout(SAFETY_S):
        assert await shell.wait() == 0
    assert '"custom_id":"a"' in (tmp_path / "answers.jsonl").read_text()
    assert await process.stop() == 0


async def test_the_demo_serves_although_nobody_reads_its_guide(run: Run) -> None:
    unread = "import os; ours, theirs = os.pipe(); os.close(ours); os.dup2(theirs, 1); os.close(theirs); "
    process = await run({"LOG_LEVEL": "info"}, "--demo", "--port", "0", code=unread + RUN)
    await process.listening()
    assert await process.stop() == 0
    assert "Traceback" not in process.text


async def test_the_demo_leaves_the_operators_key_to_the_shell_and_reads_no_env_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("malformed\nVLLM_BASE_URL=http://127.0.0.1:1/v1\n")
    process = await run({"GOMODEL_MASTER_KEY": "secret-4711", "GOMODEL_WORKERS": "4", "BASE_PATH": "/g"}, "--demo")
    await process.until("guide", lambda: "  key: what GOMODEL_MASTER_KEY says\n" in process.output)
    assert 'Bearer $GOMODEL_MASTER_KEY"' in process.output
    assert re.search(r"http://127\.0\.0\.1:\d+/g/\n", process.output)
    assert re.search(r"http://127\.0\.0\.1:\d+/g/v1/models", process.output)
    assert "secret-4711" not in process.output + process.text
    assert await process.stop() == 0
