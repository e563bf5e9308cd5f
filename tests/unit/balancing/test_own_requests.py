"""What gomodel makes of any answer to its own questions: model lists, `--check`, the search for a stored response."""

import errno
import json
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gomodel.balancing import model_entries
from gomodel.balancing import model_lists as module
from gomodel.balancing.instances import Providers
from gomodel.balancing.model_lists import ModelLists
from gomodel.balancing.stored_responses import StoredResponses
from gomodel.config.load import Config, from_environ
from gomodel.errors import ConnectError, GatewayError, Overloaded, UpstreamTimeout
from gomodel.process.check import print_table
from gomodel.upstream.channel import Channel
from gomodel.upstream.other_scheme import SPEAKS_PLAIN_HTTP, speaks_other
from gomodel.upstream.pool import Pool

from ...harness.answers import Answers, answers

CANARY = "canary-6b1f"
BASE = "http://vllm.test:8000/v1"
MODELS = f"{BASE}/models"
ID = "resp_0a1B"
STORED = f"{BASE}/responses/{ID}"
ONE = b'{"object":"list","data":[{"id":"m","object":"model"}]}'

STATUSES = sorted({each.value for each in HTTPStatus if each > 200} | {299, 419, 499, 520, 599, 999})
HOLDS_NONE = {400, 404, 405, 501}


@pytest.fixture
def upstreams() -> Iterator[Answers]:
    with answers() as made:
        yield made


@pytest.fixture
def config() -> Config:
    return from_environ({"VLLM_BASE_URL": BASE, "VLLM_B_BASE_URL": "http://b.test/v1"})


@pytest.fixture
async def providers(config: Config) -> AsyncIterator[Providers]:
    table = Providers(config)
    yield table
    await table.close()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` finds each instance's port open."""

    async def connect(pool: Pool) -> Channel:
        channel = Channel(pool._loop, "vllm")
        channel.pool = pool
        return channel

    monkeypatch.setattr(Pool, "connect", connect)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """`said()`: what was logged of the instance `vllm`, and nothing of it may be what only an exception knew."""
    caplog.set_level(logging.DEBUG, logger="gomodel")

    def of_vllm() -> list[str]:
        assert CANARY not in caplog.text
        return [text for record in caplog.records if " vllm " in (text := record.getMessage())]

    return of_vllm


async def merged(lists: ModelLists) -> list[str]:
    return [each["id"] for each in json.loads(await lists.merged())["data"]]


def unread(reason: str) -> list[str]:
    return [f"The model list of instance vllm cannot be read: {reason}"]


async def shown(config: Config, capsys: pytest.CaptureFixture[str]) -> str:
    """What `--check` shows as the state of `vllm`."""
    well = await print_table(config)
    output = capsys.readouterr().out
    assert CANARY not in output
    assert not well  # since nothing answers for `vllm-b`
    line = next(line for line in output.splitlines() if line.startswith("vllm "))
    return line.split("  no   ")[1].partition("  ")[0].strip()


class TestStatuses:
    @pytest.mark.parametrize("status", STATUSES)
    async def test_any_but_200_is_no_list(self, status, upstreams, config, providers, connected, said, capsys):
        headers = {"Location": MODELS} if 300 <= status < 400 else None
        for _ in range(2):
            upstreams.on_get(MODELS, ONE, status, headers)
        upstreams.on_get("http://b.test/v1/models", ONE)
        lists = ModelLists(providers, config)
        assert await merged(lists) == ["vllm-b/m"]
        assert said()[status == 401 :] == unread(f"status {status}")
        assert providers.instances["vllm"].replicas[0].health.key_refused == (status == 401)
        assert await shown(config, capsys) == ("wants a key" if status == 401 else f"GET /models: status {status}")
        # Once each: no redirect was followed.
        assert [each.url for each in upstreams.questions].count(MODELS) == 2

    async def test_401_means_the_key_where_there_is_one(self, upstreams, connected, capsys):
        upstreams.on_get(MODELS, status=401)
        assert not await print_table(from_environ({"VLLM_BASE_URL": BASE, "VLLM_API_KEY": CANARY}))
        output = capsys.readouterr().out
        assert "  yes  refuses the key  -" in output
        assert CANARY not in output

    @pytest.mark.parametrize("status", [200, *STATUSES])
    async def test_say_whether_an_instance_holds_a_response(self, status, upstreams, providers):
        headers = {"Location": STORED} if 300 <= status < 400 else None
        upstreams.on_get(STORED, b"{}", status, headers)
        upstreams.on_get(f"http://b.test/v1/responses/{ID}", status=404)
        stored = StoredResponses(providers)
        if status == 200:
            assert await stored.home(ID) is providers.instances["vllm"].replicas[0]
            assert await stored.home(ID) is providers.instances["vllm"].replicas[0]  # and is not asked again
        elif status in HOLDS_NONE:
            assert await stored.home(ID) is None
        else:
            with pytest.raises(Overloaded, match="'vllm' could not be asked") as raised:
                await stored.home(ID)
            assert "'vllm-b'" not in str(raised.value)
        assert len(upstreams.questions) == 2


KEY = ConnectionKey("vllm.test", 8000, False, True, None, None, None)
ASKED = RequestInfo(URL(MODELS), "GET", CIMultiDictProxy(CIMultiDict()), URL(MODELS))
OS_ERROR = OSError(errno.ECONNREFUSED, CANARY)
CONNECTION = "the connection failed"
NO_HTTP = "no valid HTTP answer"
NO_TIME = "no answer in time"
# All that aiohttp's session is documented to raise, and what comes through it from below.
FAILURES = {
    "closed": (aiohttp.ServerDisconnectedError(CANARY), CONNECTION),
    "reset": (aiohttp.ClientConnectionResetError(CANARY), CONNECTION),
    "os": (aiohttp.ClientOSError(errno.EPIPE, CANARY), CONNECTION),
    "refused": (aiohttp.ClientConnectorError(KEY, OS_ERROR), CONNECTION),
    "name": (aiohttp.ClientConnectorDNSError(KEY, OS_ERROR), CONNECTION),
    "tls": (aiohttp.ClientConnectorSSLError(KEY, OS_ERROR), CONNECTION),
    "certificate": (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError(CANARY)), CONNECTION),
    "fingerprint": (aiohttp.ServerFingerprintMismatch(b"a", b"b", CANARY, 1), CONNECTION),
    "unix": (aiohttp.client_exceptions.UnixClientConnectorError(f"/{CANARY}", KEY, OS_ERROR), CONNECTION),
    "descriptors": (OSError(errno.EMFILE, CANARY), CONNECTION),
    "late": (aiohttp.ServerTimeoutError(CANARY), NO_TIME),
    "late connection": (aiohttp.ConnectionTimeoutError(CANARY), NO_TIME),
    "late bytes": (aiohttp.SocketTimeoutError(CANARY), NO_TIME),
    "late in all": (TimeoutError(CANARY), NO_TIME),
    "head": (aiohttp.ClientResponseError(ASKED, (), status=400, message=CANARY), NO_HTTP),
    "handshake": (aiohttp.WSServerHandshakeError(ASKED, (), status=400, message=CANARY), NO_HTTP),
    "content type": (aiohttp.ContentTypeError(ASKED, (), message=CANARY), NO_HTTP),
    "redirects": (aiohttp.TooManyRedirects(ASKED, (), message=CANARY), NO_HTTP),
    "cut": (aiohttp.ClientPayloadError(CANARY), NO_HTTP),
    "other": (aiohttp.ClientError(CANARY), NO_HTTP),
    "url": (aiohttp.InvalidURL(f"http://{CANARY}"), NO_HTTP),
    "no name": (UnicodeError(CANARY), NO_HTTP),
}


class TestFailures:
    @pytest.mark.parametrize("failure", FAILURES)
    async def test_leave_the_list_as_it_is_and_are_told_in_our_words(
        self, failure, upstreams, config, providers, connected, said, monkeypatch
    ):
        monkeypatch.setattr(module, "_UNKNOWN_INTERVAL_S", 0.0)
        exception, reason = FAILURES[failure]
        upstreams.on_get(MODELS, ONE)
        for _ in range(2):
            upstreams.on_get(MODELS, exception=exception)
        upstreams.on_get(MODELS, b'{"data":[]}')
        lists = ModelLists(providers, config)
        await lists.learn_unknown(lambda: None)
        for _ in range(2):
            await lists.learn_unknown(lambda: None)
            assert await merged(lists) == ["vllm/m"]
            assert said() == unread(reason)  # once
        await lists.learn_unknown(lambda: None)
        assert await merged(lists) == []
        assert said()[1:] == ["The model list of instance vllm can be read again"]

    @pytest.mark.parametrize("failure", FAILURES)
    async def test_are_a_state_for_check(self, failure, upstreams, config, connected, capsys):
        exception, reason = FAILURES[failure]
        upstreams.on_get(MODELS, exception=exception)
        assert await shown(config, capsys) == (NO_TIME if reason == NO_TIME else NO_HTTP)

    @pytest.mark.parametrize("failure", FAILURES)
    async def test_say_nothing_of_who_holds_a_response(self, failure, upstreams, providers):
        upstreams.on_get(STORED, exception=FAILURES[failure][0])
        upstreams.on_get(f"http://b.test/v1/responses/{ID}", status=404)
        with pytest.raises(Overloaded, match="'vllm' could not be asked") as raised:
            await StoredResponses(providers).home(ID)
        assert CANARY not in str(raised.value)


BODIES = {
    "nothing": (b"", "no JSON"),
    "html": (b"<!doctype html><title>nginx</title>", "no JSON"),
    "no text": (b"\xff\xfe\x00", "no JSON"),
    "a list": (b'[{"id":"m"}]', "no JSON"),
    "a number": (b"1", "no JSON"),
    "null": (b"null", "no JSON"),
    "cut": (ONE[:-1], "no JSON"),
    "two": (ONE + ONE, "no JSON"),
    "not a number": (b'{"data":[{"id":"x","created":NaN}]}', "no JSON"),
    "an integer without end": (b'{"data":[{"id":"x","created":%b}]}' % (b"9" * 5000), "no JSON"),
    "a deep one": (b"[" * 5000, "no JSON"),
    "ollama's": (b'{"models":[{"name":"m"}]}', "no list of models"),
    "an error": (b'{"error":{"message":"canary-6b1f"}}', "no list of models"),
    "data of null": (b'{"object":"list","data":null}', "no list of models"),
    "too large": (ONE + b" " * 6000, "the list is too large"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_body_that_is_no_list_is_named(
    what, upstreams, config, providers, connected, said, capsys, monkeypatch
):
    monkeypatch.setattr(model_entries, "_LIST_LIMIT_BYTES", 6000)
    body, reason = BODIES[what]
    for _ in range(2):
        upstreams.on_get(MODELS, body)
    with pytest.raises(Overloaded):
        await ModelLists(providers, config).merged()
    assert said() == unread(reason)
    assert await shown(config, capsys) == f"GET /models: {reason}"


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/html"}, {"Content-Type": "x"}, {"Set-Cookie": "a=b"}])
async def test_a_list_is_known_by_its_body_whatever_its_fields_say(headers, upstreams, config, providers, said):
    upstreams.on_get(MODELS, ONE, headers=headers)
    assert await merged(ModelLists(providers, config)) == ["vllm/m"]
    assert said() == []


CONNECTS = [
    *(
        ConnectError("It cannot be reached.", code=code)
        for code in ("connection_refused", "dns_error", "tls_certificate_error")
    ),
    UpstreamTimeout("It is late.", code="connection_timeout"),
    Overloaded("There is no descriptor.", code="connection_limit", retry_after_s=1),
]


@pytest.mark.parametrize("error", CONNECTS, ids=lambda error: error.code)
async def test_check_names_what_keeps_it_from_connecting_and_asks_for_nothing(
    error: GatewayError, upstreams, config, capsys, monkeypatch
):
    async def connect(pool: Pool) -> Channel:
        raise error

    monkeypatch.setattr(Pool, "connect", connect)
    assert await shown(config, capsys) == error.code.replace("_", " ")
    assert upstreams.questions == []


QUESTIONS = [
    ({"VLLM_BASE_URL": "http://vllm.test:8000/v1"}, "http://vllm.test:8000/v1", None),
    ({"VLLM_BASE_URL": "http://VLLM.test:8080/v1/"}, "http://vllm.test:8080/v1", None),
    ({"VLLM_BASE_URL": "https://vllm.test/a%20b/v1", "VLLM_API_KEY": "k"}, "https://vllm.test/a%20b/v1", "Bearer k"),
    ({"VLLM_BASE_URL": "http://[::1]:8000", "VLLM_API_KEY": "a=b"}, "http://[::1]:8000", "Bearer a=b"),
    ({"VLLM_BASE_URL": "unix:///run/vllm.sock:/v1"}, "http://localhost/v1", None),
]


@pytest.mark.parametrize(("environ", "base", "authorization"), QUESTIONS)
async def test_a_question_goes_to_the_base_url_with_the_instances_key(environ, base, authorization, upstreams):
    config = from_environ({**environ, "VLLM_B_BASE_URL": "http://b.test"})
    providers = Providers(config)
    upstreams.on_get(f"{base}/models", ONE)
    upstreams.on_get(f"{base}/responses/{ID}", status=404)
    try:
        assert await merged(ModelLists(providers, config)) == ["vllm/m"]
        with pytest.raises(Overloaded, match="'vllm-b' could not be asked"):
            await StoredResponses(providers).home(ID)
    finally:
        await providers.close()
    asked = [each for each in upstreams.questions if "b.test" not in each.url]
    assert [each.url for each in asked] == [f"{base}/models", f"{base}/responses/{ID}"]
    for each in asked:
        assert each.options["headers"].get("Authorization") == authorization
        assert each.options["allow_redirects"] is False
        assert 0 < each.options["timeout"].total <= 10


HEADS = {
    "an answer": ({"status": 404}, True),
    "a redirect": ({"status": 301, "headers": {"Location": MODELS}}, True),
    "refused": ({"exception": FAILURES["refused"][0]}, False),
    "no TLS": ({"exception": FAILURES["tls"][0]}, False),
    "silence": ({"exception": TimeoutError(CANARY)}, False),
    "silence in the handshake": ({"exception": FAILURES["late connection"][0]}, False),
    "closed behind the handshake": ({"exception": FAILURES["closed"][0]}, True),
    "silence behind the handshake": ({"exception": FAILURES["late bytes"][0]}, True),
    "no descriptor": ({"exception": FAILURES["descriptors"][0]}, False),
    "another protocol behind it": ({"exception": FAILURES["head"][0]}, True),
}
SUSPICIOUS = {"400": {"status": 400}, "closed": {"exception": FAILURES["closed"][0]}}


@pytest.mark.parametrize("plain", SUSPICIOUS)
@pytest.mark.parametrize("tls", HEADS)
async def test_check_asks_whether_it_is_tls_where_plain_http_is_not_understood(
    plain, tls, upstreams, config, connected, capsys
):
    head, speaks = HEADS[tls]
    upstreams.on_get(MODELS, **SUSPICIOUS[plain])
    upstreams.on_get(BASE.replace("http:", "https:"), **head)
    assert not await print_table(config)
    output = capsys.readouterr().out
    assert ("\nvllm: It speaks TLS: its base URL should begin with https://.\n" in output) == speaks
    assert CANARY not in output
    [question] = [each for each in upstreams.questions if each.url.startswith("https://vllm.")]
    assert question.options["ssl"] is False
    assert "headers" not in question.options  # nobody in particular answers, who must not see the key


PLAIN = {
    "an answer": ({"status": 404}, True),
    "a redirect": ({"status": 301, "headers": {"Location": MODELS}}, True),
    "a wish for TLS": ({"status": 400}, False),
    **{name: ({"exception": exception}, False) for name, (exception, _) in FAILURES.items()},
}


@pytest.mark.parametrize("answer", PLAIN)
async def test_who_answers_plain_http_where_https_is_set_speaks_it(answer, upstreams):
    said, speaks = PLAIN[answer]
    providers = Providers(from_environ({"VLLM_BASE_URL": "https://vllm.test:8443/v1", "VLLM_API_KEY": CANARY}))
    upstreams.on_get("http://vllm.test:8443/v1", **said)
    replica = providers.replicas[0]
    try:
        found = await speaks_other(replica.pool.session, replica.server)
    finally:
        await providers.close()
    assert found == (SPEAKS_PLAIN_HTTP if speaks else "")
    [question] = upstreams.questions
    assert (question.options.get("headers"), question.options["allow_redirects"]) == (None, False)


@pytest.mark.parametrize(
    ("base", "answer"),
    [(BASE, {"status": 401}), (BASE, {"status": 500}), (BASE, {"body": b"<html>"}), (BASE, {"body": ONE})]
    + [(url, SUSPICIOUS[each]) for url in ("https://vllm.test/v1", "unix:///run/vllm.sock:/v1") for each in SUSPICIOUS],
)
async def test_check_does_not_ask_for_tls_of_what_answers_http_or_has_it_or_needs_none(
    base, answer, upstreams, connected, capsys
):
    upstreams.on_get("http://localhost/v1/models" if base.startswith("unix") else f"{base}/models", **answer)
    await print_table(from_environ({"VLLM_BASE_URL": base}))
    assert "speaks TLS" not in capsys.readouterr().out
    assert [each.method for each in upstreams.questions] == ["GET"]
