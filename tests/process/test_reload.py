"""What SIGHUP may not take away: the master key, an instance's address, the file that the configuration came from."""

import asyncio
import logging
import os
import signal
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from gomodel.config.files import Files
from gomodel.config.load import from_environ, load
from gomodel.config.settings import Config, ConfigError
from gomodel.process import reload
from gomodel.process.reload import Rereading, read_again

from ..harness.processes import RUN, Run
from ..harness.scripted import SAFETY_S, RawClient, ScriptedUpstream, env_for, request, response
from ..harness.tls import KEY_AND_CERTIFICATE, PEM

KEY = "GOMODEL_MASTER_KEY=k\n"
GONE = "GOMODEL_MASTER_KEY was set and is gone; restart to serve without a key"
VANISHED = ".env was in use and is now missing or sets nothing; restart to serve without it"
IMPATIENT = (
    f"import gomodel.config.files as f, gomodel.process.reload as r; f.PATIENCE_S = 0.05; r.SETTLE_S = 0.01; {RUN}"
)
CHAT = request("POST", "/v1/chat/completions", [("Connection", "close")], b'{"model": "m"}')


CUT = "the last line of .env has lost its line end, so it may be cut short; end the line, or restart"
LOST = "no VLLM_BASE_URL is set any more; set it, or restart to serve http://localhost:8000/v1"
GPU = "VLLM_BASE_URL=http://gpu/v1\n"
TWO = "VLLM_A_BASE_URL=http://a/v1\nVLLM_B_BASE_URL=http://b/v1\n"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes to a file for longer than a moment."""
    monkeypatch.setattr(reload, "SETTLE_S", 0.0)


def put(path: Path, text: str | None) -> None:
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("environ", "before", "after", "refused"),
    [
        ({}, KEY + GPU, KEY, [LOST]),
        ({}, KEY + GPU + "VLLM_API_KEY=x\n", KEY + "VLLM_API_KEY=x\n", [LOST]),
        ({}, GPU + "LOG_LEVEL=info\n", "LOG_LEVEL=info\n", [LOST]),
        ({}, "VLLM_API_KEY=x\n" + TWO, "VLLM_API_KEY=x\n", []),
        ({}, KEY + TWO, KEY, [LOST]),
        ({}, TWO, "VLLM_A_BASE_URL=http://a/v1\n", []),
        ({}, KEY, KEY + "VLLM_API_KEY=x\n", []),
        ({}, KEY + "VLLM_BASE_URL=http://localhost:8000/v1\n", KEY, []),
        ({"VLLM_BASE_URL": "http://gpu/v1"}, KEY + GPU, KEY, []),
        ({}, GPU + "LOG_LEVEL=info\n", GPU + "LOG_LEVEL=inf", ["LOG_LEVEL: 'inf' is not accepted; use debug, info, "]),
        ({}, "VLLM_BASE_URL=http://gpu.example/v1\n", "VLLM_BASE_URL=http://gpu.ex", [CUT]),
        ({}, GPU, GPU[:-1], [CUT]),
        ({}, GPU[:-1], "VLLM_BASE_URL=http://gp/v1", []),
        ({}, KEY, None, [GONE, VANISHED]),
        ({}, KEY, "", [GONE, VANISHED]),
        ({}, KEY, "# GOMODEL_MASTER_KEY=k\n", [GONE, VANISHED]),
        ({}, KEY, "LOG_LEVEL=debug\n", [GONE]),
        ({}, KEY, "GOMODEL_MASTER_KEY=\nLOG_LEVEL=debug\n", [GONE]),
        ({}, GPU, None, [VANISHED, LOST]),
        ({}, GPU, "\n", [VANISHED, LOST]),
        ({"GOMODEL_MASTER_KEY": "k"}, "LOG_LEVEL=debug\n", None, [VANISHED]),
        ({"GOMODEL_MASTER_KEY": "k"}, KEY, None, []),
        ({"GOMODEL_MASTER_KEY": "k"}, None, None, []),
        ({}, None, None, []),
        ({}, "", None, []),
        ({}, None, KEY, []),
        ({}, KEY, "GOMODEL_MASTER_KEY=another\n", []),
        ({}, KEY + "LOG_LEVEL=debug\n", KEY, []),
    ],
)
def test_neither_the_key_nor_the_file_may_vanish(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    environ: dict[str, str],
    before: str | None,
    after: str | None,
    refused: list[str],
) -> None:
    env = tmp_path / ".env"

    put(env, before)
    current = load(environ, env)
    put(env, after)
    problems: tuple[str, ...] = ()
    try:
        read_again(lambda files: load(environ, env, files), current)
    except ConfigError as error:
        problems = error.problems
    assert len(problems) == len(refused)
    assert all(found.startswith(expected) for found, expected in zip(problems, refused, strict=True))


def key_entry(rest: str) -> bytes:
    return f'[keys.alice]\nsha256 = "{"0" * 64}"\n{rest}'.encode()


CERTIFICATE = Path(PEM).read_bytes()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("name", "before", "after", "refused"),
    [
        ("GOMODEL_MASTER_KEY_FILE", b"KEYONE\nKEYTWO\n", b"KEY", True),
        ("GOMODEL_MASTER_KEY_FILE", b"KEYONE\nKEYTWO\n", b"KEYONE\nKEYTWO", True),
        ("GOMODEL_MASTER_KEY_FILE", b"KEYONE\r\n", b"KEYO", True),
        ("GOMODEL_MASTER_KEY_FILE", b"KEYONE\n", b"KEYTWO\n", False),
        ("GOMODEL_MASTER_KEY_FILE", b"KEYONE", b"KEYTWO", False),
        ("GOMODEL_MASTER_KEY_FILE", b"KEYONE", b"KEYONE\nKEYTWO\n", False),
        ("VLLM_API_KEY_FILE", b"KEYONE\n", b"KEY", True),
        ("VLLM_API_KEY_FILE", b"KEYONE", b"KEY", False),
        ("GOMODEL_KEYS_FILE", key_entry("in_flight = 80\n"), key_entry("in_flight = 8"), True),
        ("GOMODEL_KEYS_FILE", key_entry("in_flight = 80"), key_entry("in_flight = 8"), False),
        ("VLLM_CA_FILE", CERTIFICATE, CERTIFICATE.rstrip(), False),
        ("VLLM_CA_FILE", CERTIFICATE.rstrip(), CERTIFICATE, False),
        ("VLLM_CA_FILE", CERTIFICATE + b"# the end\n", CERTIFICATE + b"# th", True),
    ],
)
def test_a_file_that_has_lost_its_last_line_end_is_half_written(
    tmp_path: Path, name: str, before: bytes, after: bytes, refused: bool
) -> None:
    file = tmp_path / "file"
    environ = {name: str(file), "VLLM_BASE_URL": "https://gpu/v1"}
    file.write_bytes(before)
    current = from_environ(environ)
    file.write_bytes(after)
    try:
        read_again(lambda files: from_environ(environ, files), current)
        problems: tuple[str, ...] = ()
    except ConfigError as error:
        problems = error.problems
    said = f"the last line of {name} ({str(file)!r}) has lost its line end, so it may be cut short; end it, or restart"
    assert problems == ((said,) if refused else ())


@pytest.mark.usefixtures("at_once")
def test_another_file_need_not_end_as_the_one_before_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"KEYONE\n")
    other.write_bytes(b"KEYTWO")
    current = from_environ({"GOMODEL_MASTER_KEY_FILE": str(one)})
    config = read_again(lambda files: from_environ({"GOMODEL_MASTER_KEY_FILE": str(other)}, files), current)
    assert [each.reveal() for each in config.master_keys] == ["KEYTWO"]


@pytest.mark.usefixtures("at_once")
def test_a_file_that_came_at_a_reload_may_not_vanish_at_the_next(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    first = load({}, env)
    env.write_text("LOG_LEVEL=debug\n")
    second = read_again(lambda files: load({}, env, files), first)
    env.unlink()
    with pytest.raises(ConfigError, match="now missing"):
        read_again(lambda files: load({}, env, files), second)


class Writer:
    """Loads like `load`, while somebody writes a further line before each reading."""

    def __init__(self, env: Path, steps: list[str | None]) -> None:
        self._env = env
        self._steps = steps
        self.readings = 0

    def load(self, files: Files) -> Config:
        self.readings += 1
        if self._steps:
            put(self._env, self._steps.pop(0))
        return load({}, self._env, files)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("absent", range(1, reload.AGREED_ON_LESS))
@pytest.mark.parametrize("half", [KEY, KEY + "VLLM_A_BASE_URL=http://a/v1\n", "", None])
def test_what_is_missing_for_less_than_a_second_is_being_written(tmp_path: Path, half: str | None, absent: int) -> None:
    env = tmp_path / ".env"
    put(env, KEY + TWO)
    current, writer = load({}, env), Writer(env, [half] * absent + [KEY + TWO])
    assert read_again(writer.load, current) == current
    assert writer.readings == absent + 2


@pytest.mark.usefixtures("at_once")
def test_an_instance_is_gone_when_it_stays_away(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    put(env, TWO)
    current, writer = load({}, env), Writer(env, ["VLLM_A_BASE_URL=http://a/v1\n"])
    assert [each.name for each in read_again(writer.load, current).instances] == ["vllm-a"]
    assert writer.readings == reload.AGREED_ON_LESS


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "steps",
    [
        [None, "LOG_LEVEL=debug\n", "LOG_LEVEL=debug\n" + GPU],
        ["", "LOG_LEVEL=debug\n", "LOG_LEVEL=debug\n" + GPU],
        ["LOG_LEVEL=de", "LOG_LEVEL=debug\nVLLM_BASE_UR", "LOG_LEVEL=debug\n" + GPU],
        ["LOG_LEVEL=debug\n" + GPU],
    ],
)
def test_a_file_counts_when_two_readings_of_it_agree(tmp_path: Path, steps: list[str | None]) -> None:
    env = tmp_path / ".env"
    put(env, GPU)
    current, writer, count = load({}, env), Writer(env, steps), len(steps)
    assert read_again(writer.load, current).log_level == "debug"
    assert writer.readings == count + 1


@pytest.mark.usefixtures("at_once")
def test_a_key_file_that_is_being_replaced_counts_when_it_is_whole(tmp_path: Path) -> None:
    environ = {"GOMODEL_MASTER_KEY_FILE": str(tmp_path / "key")}
    parts = ["old", "", "n", "new-k", "new-key"]

    def reading(files: Files) -> Config:
        if parts:
            (tmp_path / "key").write_text(parts.pop(0))
        return from_environ(environ, files)

    current = reading(Files())
    found = read_again(reading, current)
    assert [each.reveal() for each in found.master_keys] == ["new-key"]


@pytest.mark.usefixtures("at_once")
def test_a_file_that_never_settles_changes_nothing(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    put(env, GPU)
    writer = Writer(env, [f"{GPU}PORT={number}\n" for number in range(1000)])
    with pytest.raises(ConfigError, match="are being written; send SIGHUP again"):
        read_again(writer.load, load({}, env))
    assert writer.readings == reload.READINGS


@pytest.mark.usefixtures("at_once")
def test_names_that_are_not_read_are_said_beside_the_problems_that_they_may_explain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = tmp_path / ".env"
    put(env, GPU)
    current = load({}, env)
    put(env, f"{GPU}VLM_A_BASE_URL=http://a/v1\nVLLM_A_API_KEY=x\n")
    with pytest.raises(ConfigError) as caught:
        read_again(lambda files: load({}, env, files), current)
    reload.log_refusal(caught.value)
    assert caplog.messages[1:] == ["VLM_A_BASE_URL is not a variable of gomodel; the nearest is VLLM_BASE_URL"]


@pytest.mark.usefixtures("at_once")
async def test_instances_that_disappear_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = tmp_path / ".env"
    put(env, TWO)
    current = load({}, env)
    put(env, "VLLM_A_BASE_URL=http://a/v1\n")
    finished = threading.Event()
    rereading = Rereading(lambda files: load({}, env, files), finished.set)
    rereading.begin(current)
    assert await asyncio.to_thread(finished.wait, SAFETY_S)
    with caplog.at_level(logging.WARNING, "gomodel"):
        assert rereading.result(current) is not None
    assert caplog.messages == [
        "No longer configured, and no longer served: vllm-b",
        "Until a restart vllm-a gets only what names it or a model that it lists",
    ]


ONE, OTHER, THIRD = (f"VLLM_{name}_BASE_URL=http://{name.lower()}/v1\n" for name in "ABC")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("files", "former"),
    [
        ([ONE, ONE + OTHER], set()),
        ([ONE + OTHER, ONE], {"vllm-b"}),
        ([ONE, OTHER], {"vllm-a"}),
        ([ONE, OTHER, THIRD], {"vllm-a", "vllm-b"}),
        ([ONE, OTHER, ONE], {"vllm-b"}),
        ([ONE + OTHER, ONE, ONE + OTHER], set()),
        ([ONE + OTHER, ONE, ONE + "LOG_LEVEL=debug\n"], {"vllm-b"}),
        ([ONE, ONE.replace("_A_", "_NEW_")], set()),
        ([ONE + OTHER, ONE.replace("_A_", "_B_")], set()),
        ([ONE, ONE.replace("//a/", "//b/")], set()),
    ],
)
async def test_a_name_whose_server_a_reload_took_away_is_remembered_until_it_is_served_again(
    tmp_path: Path, files: list[str], former: set[str]
) -> None:
    env = tmp_path / ".env"
    put(env, files[0])
    current = load({}, env)
    for text in files[1:]:
        put(env, text)
        finished = threading.Event()
        rereading = Rereading(lambda files: load({}, env, files), finished.set)
        rereading.begin(current)
        assert await asyncio.to_thread(finished.wait, SAFETY_S)
        found = rereading.result(current)
        assert found is not None
        current = found
    assert current.former == former


@pytest.mark.parametrize("left", [0, 1])
def test_without_a_thread_the_old_configuration_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    threads = [threading.Thread] * left

    def thread(*arguments: Any, **options: Any) -> Any:
        if not threads:
            raise RuntimeError("can't start new thread")
        return threads.pop()(*arguments, **options)

    monkeypatch.setattr(reload, "Thread", thread)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    current, finished = from_environ({}), threading.Semaphore(0)
    rereading = Rereading(lambda files: from_environ({}, files), finished.release)
    rereading.begin(current)
    assert finished.acquire(timeout=SAFETY_S)
    assert rereading.result(current) is None
    assert "the old one stays" in caplog.text
    assert not rereading.busy


@pytest.mark.usefixtures("at_once")
def test_what_hangs_is_given_up_and_heard_of_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reload, "LIMIT_S", 0.01)
    current = from_environ({})
    hang, hung, finished = threading.Event(), [True], threading.Semaphore(0)

    def reading(files: Files) -> Config:
        if hung.pop():
            hang.wait()
        return from_environ({"LOG_LEVEL": "debug"}, files)

    rereading = Rereading(reading, finished.release)
    rereading.begin(current)
    assert finished.acquire(timeout=SAFETY_S)
    assert rereading.result(current) is None
    assert caplog.messages == [
        "The new configuration is not used, the old one stays: its files could not be read in time"
    ]
    hung += [False] * 10
    monkeypatch.setattr(reload, "LIMIT_S", 10.0)
    rereading.begin(current)
    rereading.begin(current)  # while the first is under way
    for busy in (True, False):
        assert finished.acquire(timeout=SAFETY_S)
        found = rereading.result(current)
        assert found is not None
        assert (found.log_level, rereading.busy) == ("debug", busy)
    hang.set()


async def status(port: int, raw: bytes = CHAT) -> int:
    client = await RawClient.connect(port)
    await client.send(raw)
    answer = await client.read_response("POST")
    client.wire.close()
    return int(answer.status)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_text("")], ids=["missing", "truncated"])
async def test_a_file_caught_while_it_is_replaced_opens_nothing(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str, how: Any
) -> None:
    upstream.repeat(response(b"answer"))
    env = tmp_path / ".env"
    settings = f"VLLM_BASE_URL={upstream.base_url}\n"
    env.write_text(settings + KEY)
    process = await run({"GOMODEL_WORKERS": workers}, code=IMPATIENT)
    port = await process.listening()
    assert await status(port) == 401
    await asyncio.to_thread(how, env)
    process.signal(signal.SIGHUP)
    await process.says(f"The new configuration is not used, the old one stays: {GONE}")
    assert [await status(port) for _ in range(5)] == [401] * 5
    env.write_text(f"{settings}GOMODEL_MASTER_KEY=another\n")
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    assert [await status(port) for _ in range(5)] == [401] * 5
    assert await process.stop() == 0
    assert upstream.requests == []


@pytest.mark.parametrize(("what", "workers"), [("env", "1"), ("env", "2"), ("key", "2")])
async def test_a_pipe_without_a_writer_is_an_error_and_stops_nobody(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str, what: str
) -> None:
    upstream.repeat(response(b"answer"))
    env, key = tmp_path / ".env", tmp_path / "key"
    env.write_text(f"VLLM_BASE_URL={upstream.base_url}\nVLLM_API_KEY_FILE={key}\n")
    key.write_text("k")
    process = await run({"GOMODEL_WORKERS": workers}, code=IMPATIENT)
    port = await process.listening()
    pipe = env if what == "env" else key
    await asyncio.to_thread(pipe.unlink)
    os.mkfifo(pipe)
    process.signal(signal.SIGHUP)
    assert await status(port) == 200
    await process.says("cannot be read: nothing is written to this pipe or device")
    assert await status(port) == 200
    process.signal(signal.SIGHUP)
    assert await process.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_device_without_an_end_is_an_error(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    upstream.repeat(response(b"answer"))
    env = tmp_path / ".env"
    env.write_text(f"VLLM_BASE_URL={upstream.base_url}\n")
    process = await run({"GOMODEL_WORKERS": workers})
    port = await process.listening()
    await asyncio.to_thread(env.unlink)
    env.symlink_to("/dev/zero")
    process.signal(signal.SIGHUP)
    await process.says("cannot be read: it holds more than")
    assert await status(port) == 200
    assert await process.stop() == 0


@pytest.mark.parametrize("name", ["TLS_CERT_FILE", "TLS_KEY_FILE"])
@pytest.mark.parametrize("what", ["pipe", "/dev/zero"])
async def test_a_certificate_that_cannot_be_read_leaves_the_old_one_in_use(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, name: str, what: str
) -> None:
    files = {"TLS_CERT_FILE": tmp_path / "tls.crt", "TLS_KEY_FILE": tmp_path / "tls.key"}
    for each in files.values():
        each.write_text(KEY_AND_CERTIFICATE)
    environ = {**env_for(vllm=upstream), **{each: str(path) for each, path in files.items()}}
    process = await run(environ, code=IMPATIENT)
    port = await process.listening()
    files[name].unlink()
    os.mkfifo(files[name]) if what == "pipe" else files[name].symlink_to(what)
    process.signal(signal.SIGHUP)
    await process.says(f"{name}: '{files[name]}' cannot be read")
    trusting = ssl.create_default_context(
        cafile=str(files["TLS_CERT_FILE" if name != "TLS_CERT_FILE" else "TLS_KEY_FILE"])
    )
    trusting.check_hostname = False
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    writer.close()
    await writer.wait_closed()
    assert await process.stop() == 0


async def test_a_start_with_a_pipe_without_a_writer_ends_with_status_64(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    process = await run(code=IMPATIENT)
    assert await process.ended() == 64
    assert "nothing is written to this pipe or device" in process.text


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_half_written_file_sends_no_prompt_elsewhere(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    upstream.repeat(response(b"answer"))
    env = tmp_path / ".env"
    whole = f"LOG_LEVEL=info\nVLLM_BASE_URL={upstream.base_url}\n"
    env.write_text(whole)
    process = await run({"GOMODEL_WORKERS": workers, "GOMODEL_MASTER_KEY": ""}, code=IMPATIENT)
    port = await process.listening()
    env.write_text(whole.splitlines(keepends=True)[0])
    process.signal(signal.SIGHUP)
    await process.says(f"The new configuration is not used, the old one stays: {LOST}")
    assert [await status(port) for _ in range(4)] == [200] * 4
    assert await process.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_file_that_stays_half_written_sends_nobodys_prompt_to_the_instance_that_is_left(
    run: Run, make_upstream: Any, tmp_path: Path, workers: str
) -> None:
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("n",))
    for each in (one, other):
        each.repeat(response(b"answer"))
    env = tmp_path / ".env"
    left = f"VLLM_OTHER_BASE_URL={other.base_url}\n"
    whole = f"{left}VLLM_BASE_URL={one.base_url}\n"
    env.write_text(whole)
    process = await run({"GOMODEL_WORKERS": workers, "GOMODEL_MASTER_KEY": ""}, code=IMPATIENT)
    port = await process.listening()

    async def answers(*models: str) -> list[int]:
        return [await status(port, json_request(f'{{"model": "{model}"}}')) for model in models]

    assert await answers("vllm/m", "vllm-other/n", "m", "n", "x") == [200, 200, 200, 200, 404]
    taken = len(other.requests)
    env.write_text(left)
    process.signal(signal.SIGHUP)
    await process.says("Until a restart vllm-other gets only what names it or a model that it lists")
    await turned_to(port, 404)
    assert await answers("vllm/m", "m", "x") == [404] * 3
    assert await status(port, json_request("{}")) == 400
    assert [each.body for each in other.requests[taken:] if each.body] == []
    assert await answers("vllm-other/n", "n") == [200, 200]
    env.write_text(whole)
    process.signal(signal.SIGHUP)
    await turned_to(port, 200)
    assert await answers("m", "n") == [200, 200]
    assert await process.stop() == 0


def json_request(body: str) -> bytes:
    return request("POST", "/v1/chat/completions", [("Connection", "close")], body.encode())


async def turned_to(port: int, expected: int) -> None:
    """Every worker has the new configuration: so many requests in a row are answered so."""
    alike = 0
    async with asyncio.timeout(SAFETY_S):
        while alike < 20:
            found = await status(port, json_request('{"model": "vllm/m"}'))
            alike = alike + 1 if found == expected else 0
