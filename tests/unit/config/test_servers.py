"""Each spelling of a base URL, of a list, a range and a name of several servers, accepted and refused, as a vector."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.config.load import from_environ
from gomodel.config.servers import MOST, servers
from gomodel.config.settings import ConfigError, Server


def vector_id(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


URLS_ACCEPTED = [
    ("http://localhost:8000/v1", "http://localhost:8000/v1"),
    ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
    ("https://gpu.example/v1", "https://gpu.example/v1"),
    ("http://gpu", "http://gpu"),
    ("http://gpu/", "http://gpu"),
    ("HTTP://GPU.Example:8000/V1", "http://gpu.example:8000/V1"),
    ("HttpS://gpu/v1", "https://gpu/v1"),
    ("http://gpu:/v1", "http://gpu/v1"),
    ("http://gpu:1/v1", "http://gpu:1/v1"),
    ("http://gpu:65535/v1", "http://gpu:65535/v1"),
    ("http://gpu:08000/v1", "http://gpu:8000/v1"),
    ("http://gpu:80/v1", "http://gpu:80/v1"),
    ("http://10.0.0.7:8000/v1", "http://10.0.0.7:8000/v1"),
    ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ("http://[2001:DB8::1]/v1", "http://[2001:db8::1]/v1"),
    ("http://[::ffff:10.0.0.1]/v1", "http://[::ffff:10.0.0.1]/v1"),
    ("http://vllm_a:8000/v1", "http://vllm_a:8000/v1"),
    ("http://vllm.default.svc.cluster.local.:8000/v1", "http://vllm.default.svc.cluster.local.:8000/v1"),
    ("http://xn--bcher-kva.example/v1", "http://xn--bcher-kva.example/v1"),
    ("http://gpu/team-a/v1", "http://gpu/team-a/v1"),
    ("http://gpu/a%20b/%C3%A4/v1", "http://gpu/a%20b/%C3%A4/v1"),
    ("http://gpu/a%2fb/v1", "http://gpu/a%2fb/v1"),
    ("http://gpu/a@b:c;d=e/v1", "http://gpu/a@b:c;d=e/v1"),
    ("http://gpu/.../v1", "http://gpu/.../v1"),
]
UNIX_URLS_ACCEPTED = [
    ("unix:///run/vllm.sock:/v1", "http://localhost/v1", "/run/vllm.sock"),
    ("unix:///run/vllm.sock:/v1/", "http://localhost/v1", "/run/vllm.sock"),
    ("UNIX:///run/vllm.sock:/v1", "http://localhost/v1", "/run/vllm.sock"),
    ("unix:///run/vllm.sock:/team/v1", "http://localhost/team/v1", "/run/vllm.sock"),
    ("unix:///run/vllm.sock", "http://localhost", "/run/vllm.sock"),
    ("unix:///run/vllm.sock:", "http://localhost", "/run/vllm.sock"),
    ("unix:///run/vllm.sock:/", "http://localhost", "/run/vllm.sock"),
    ("unix:///run/a:b.sock:/v1", "http://localhost/v1", "/run/a:b.sock"),
    ("unix:///run/a:b.sock", "http://localhost", "/run/a:b.sock"),
    ("unix:///run/a@b.sock:/v1", "http://localhost/v1", "/run/a@b.sock"),
]
URLS_REFUSED = [
    *[
        (text, "is not an http, https or unix URL")
        for text in (
            *(
                "localhost:8000/v1",
                "gpu",
                "/v1",
                "//gpu/v1",
                "ftp://gpu/v1",
                "ws://gpu/v1",
                "file:///v1",
                "http:/gpu/v1",
            ),
            *("http:gpu", "://gpu/v1", "http//gpu", "unix:/run/vllm.sock", "http+unix://x/v1", "httpss://gpu"),
        )
    ],
    *[
        (text, "holds whitespace, a control character or a character outside ASCII")
        for text in (
            "http://g pu/v1",
            "http://gpu/v1\n",
            "http://gpu/\tv1",
            "http://bücher/v1",
            "http://gpu/v\x001",
            "http://gpu\x7f/",
        )
    ],
    *[(text, "has no host") for text in ("http://", "https:///v1", "http://:8000/v1", "http://:/v1")],
    *[
        (text, "holds a user or password")
        for text in (
            "http://u:pw@gpu/v1",
            "http://u@gpu/v1",
            "http://@gpu/v1",
            "http://:pw@gpu:8000/v1",
            "https://a@b@gpu/",
            "http://u:p@[::1]/v1",
        )
    ],
    *[
        (text, "has a query or fragment")
        for text in (
            "http://gpu/v1?a=b",
            "http://gpu/v1?",
            "http://gpu/v1#x",
            "http://gpu/v1#",
            "http://gpu?x",
            "unix:///a?b:/v1",
        )
    ],
    *[
        (text, "has a port outside 1 to 65535")
        for text in ("http://gpu:0/v1", "http://gpu:65536/v1", "http://gpu:999999999999/v1", "http://gpu:00000/v1")
    ],
    *[
        (text, "has a port that is no number, or an IPv6 address without brackets")
        for text in (
            "http://gpu:http/v1",
            "http://gpu:-1/v1",
            "http://gpu:8000x/v1",
            "http://::1/v1",
            "http://2001:db8::1:8000/v1",
            "http://[::1/v1",
            "http://::1]/v1",
            "http://[::1]x/v1",
        )
    ],
    *[
        (text, "has a host that is neither a name nor an address")
        for text in (
            *(
                "http://[gpu]/v1",
                "http://[]/v1",
                "http://[10.0.0.1]/v1",
                "http://[fe80::1%25eth0]/v1",
                "http://256.0.0.1/v1",
            ),
            *(
                "http://1.2.3/v1",
                "http://0/v1",
                "http://gpu..lan/v1",
                "http://.gpu/v1",
                "http://./v1",
                "http://g!pu/v1",
            ),
            *(
                "http://%67pu/v1",
                "http://*/v1",
                "http://gpu\\v1",
                "http://gpu\\evil/v1",
                "http://<gpu>/v1",
                "http://{gpu}/v1",
            ),
        )
    ],
    *[
        (text, "has an empty path segment")
        for text in ("http://gpu//v1", "http://gpu/a//v1", "http://gpu/v1//", "unix:///a.sock://v1")
    ],
    *[
        (text, "has a dot segment")
        for text in (
            "http://gpu/../v1",
            "http://gpu/./v1",
            "http://gpu/a/%2e%2E/v1",
            "http://gpu/v1/..",
            "http://gpu/%2e",
            "http://gpu/.%2e/v1",
        )
    ],
    *[
        (text, "does not belong there unencoded")
        for text in (
            "http://gpu/a\\b/v1",
            'http://gpu/"/v1',
            "http://gpu/{x}/v1",
            "http://gpu/%zz/v1",
            "http://gpu/%4",
            "http://gpu/a|b",
            "http://gpu/^",
        )
    ],
    *[
        (text, "has no absolute socket path")
        for text in (
            "unix://",
            "unix:///",
            "unix://run/vllm.sock:/v1",
            "unix://:/v1",
            "unix:///run/:/v1",
            "unix:///" + "a" * 107 + ":/v1",
        )
    ],
]


@pytest.mark.parametrize(("text", "base_url"), URLS_ACCEPTED, ids=vector_id)
def test_a_tcp_base_url_becomes_this_base_url(text: str, base_url: str) -> None:
    assert servers(text) == (Server(base_url),)


@pytest.mark.parametrize(("text", "base_url", "unix_socket"), UNIX_URLS_ACCEPTED, ids=vector_id)
def test_a_unix_base_url_becomes_a_socket_and_a_placeholder_base_url(
    text: str, base_url: str, unix_socket: str
) -> None:
    assert servers(text) == (Server(base_url, unix_socket),)


@pytest.mark.parametrize(("text", "message"), URLS_REFUSED, ids=vector_id)
def test_any_other_base_url_is_refused_with_this_message(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        servers(text)


@pytest.mark.parametrize(
    "template", ["http://{}@gpu/v1", "unix://{}@gpu/v1", "http://gpu/{}//v1", "{}", "http://g!{}/v1"]
)
def test_a_refused_base_url_is_never_quoted(template: str) -> None:
    with pytest.raises(ValueError, match="use http://host:8000/v1") as caught:
        servers(template.format("user:hunter2"))
    assert "hunter2" not in str(caught.value)


@given(st.from_regex(r"(http|https)://[a-z0-9.:\[\]]{1,12}(/[a-z0-9%.]{0,6}){0,3}", fullmatch=True))
def test_an_accepted_base_url_reads_the_same_the_second_time(text: str) -> None:
    try:
        (url,) = servers(text)
    except ValueError:
        return
    assert not url.base_url.endswith("/")
    assert servers(url.base_url) == (url,)


def at(*urls: str) -> tuple[Server, ...]:
    return tuple(map(Server, urls))


LISTS_ACCEPTED = [
    ("http://gpu-1:8000/v1,http://gpu-2:8000/v1", at("http://gpu-1:8000/v1", "http://gpu-2:8000/v1")),
    (" http://b/v1 ,\thttp://A/v1/ ", at("http://b/v1", "http://a/v1")),
    ("http://gpu:8000/v1,http://gpu:8001/v1", at("http://gpu:8000/v1", "http://gpu:8001/v1")),
    ("http://gpu/v1,https://gpu/v1", at("http://gpu/v1", "https://gpu/v1")),
    ("http://gpu:8000-8002/v1", at("http://gpu:8000/v1", "http://gpu:8001/v1", "http://gpu:8002/v1")),
    ("https://gpu:65534-65535/v1", at("https://gpu:65534/v1", "https://gpu:65535/v1")),
    ("http://gpu:8000-8000/v1", at("http://gpu:8000/v1")),
    ("http://[::1]:80-81", at("http://[::1]:80", "http://[::1]:81")),
    (
        "http://10.0.0.7:8000-8001/v1,http://b/v1",
        at("http://10.0.0.7:8000/v1", "http://10.0.0.7:8001/v1", "http://b/v1"),
    ),
    (
        "unix:///run/a.sock:/v1,unix:///run/b.sock:/v1,http://gpu/v1",
        (
            Server("http://localhost/v1", "/run/a.sock"),
            Server("http://localhost/v1", "/run/b.sock"),
            Server("http://gpu/v1"),
        ),
    ),
    ("http+dns://vllm.prod.svc:8000/v1", (Server("http://vllm.prod.svc:8000/v1", every_address=True),)),
    ("HTTPS+DNS://VLLM/v1", (Server("https://vllm/v1", every_address=True),)),
    (
        "http+dns://vllm:8000-8001/v1",
        (
            Server("http://vllm:8000/v1", every_address=True),
            Server("http://vllm:8001/v1", every_address=True),
        ),
    ),
    ("http+dns://a/v1,http://b/v1", (Server("http://a/v1", every_address=True), Server("http://b/v1"))),
]


@pytest.mark.parametrize(("text", "expected"), LISTS_ACCEPTED, ids=vector_id)
def test_a_list_of_base_urls_names_these_servers(text: str, expected: tuple[Server, ...]) -> None:
    assert servers(text) == expected


LISTS_REFUSED = [
    ("", "is empty"),
    ("http://a/v1,", "entry 2 of the list is empty"),
    (",http://a/v1", "entry 1 of the list is empty"),
    ("http://a/v1, ,http://b/v1", "entry 2 of the list is empty"),
    (",", "entry 1 of the list is empty"),
    ("http://a/v1;http://b/v1", "has an empty path segment"),
    ("http://a/v1 http://b/v1", "holds whitespace"),
    ("http://a/v1,gpu-2:8000/v1", "entry 2 of the list is not an http, https or unix URL"),
    ("http://a/v1,http://b?x/v1", "entry 2 of the list has a query or fragment"),
    ("http://a/v1,http://b/v1,http://u:p@c/v1", "entry 3 of the list holds a user or password"),
    ("http://a/v1,http://b/v1,http://A/v1", "entries 1 and 3 of the list name the same server"),
    ("http://a/v1,http://a:80/v1", "entries 1 and 2 of the list name the same server"),
    ("http://a:8000-8007/v1,http://a:8003/v1", "entries 1 and 2 of the list name the same server"),
    ("http+dns://a/v1,http://a/v1", "entries 1 and 2 of the list name the same server"),
    ("http://[::1]:8000/v1,http://[0::1]:8000/v1", "entries 1 and 2 of the list name the same server"),
    ("http://[::ffff:10.0.0.1]/v1,http://[::FFFF:a00:1]:80/v1", "entries 1 and 2 of the list name the same server"),
    ("http://a.:80/v1,http://a/v1", "entries 1 and 2 of the list name the same server"),
    ("http://a:1-3/v1,http://a.:2/v1", "entries 1 and 2 of the list name the same server"),
    ("unix:///a:/v1,unix:///a:/v1", "entries 1 and 2 of the list name the same server"),
    ("http://a/v1,http://b/v1,http://c", "entries 1 and 3 of the list have different paths"),
    ("http://a/v1,unix:///b.sock", "entries 1 and 2 of the list have different paths"),
    ("http://a:8007-8000/v1", "has a range of ports that runs backwards"),
    ("http://a:0-7/v1", "has a port outside 1 to 65535"),
    ("http://a:65530-65536/v1", "has a port outside 1 to 65535"),
    ("http://a:1-99999999999999999999/v1", "has a port outside 1 to 65535"),
    ("http://a:1-1025/v1", "has a range of 1025 ports, and 1024 are the most"),
    ("http://a:8000-/v1", "has a port that is no number"),
    ("http://a:-8000/v1", "has a port that is no number"),
    ("http://a:8000-8003-8007/v1", "has a port that is no number"),
    ("http://:8000-8007/v1", "has no host"),
    ("http://a:1-1000/v1,http://b:1-1000/v1", "names 2000 servers; an instance may have 1024"),
    ("http+dns://10.0.0.7:8000/v1", "has an address where a name belongs"),
    ("http+dns://[::1]/v1", "has an address where a name belongs"),
    ("unix+dns:///run/a.sock:/v1", "is not an http, https or unix URL"),
    ("dns://a/v1", "is not an http, https or unix URL"),
]


@pytest.mark.parametrize(("text", "message"), LISTS_REFUSED, ids=vector_id)
def test_any_other_list_is_refused_with_this_message(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        servers(text)


def test_a_list_that_is_refused_is_never_quoted() -> None:
    with pytest.raises(ValueError, match="entry 2") as caught:
        servers("http://a/v1,http://user:hunter2@gpu/v1")
    assert "hunter2" not in str(caught.value)


def test_as_many_servers_as_are_allowed_are_taken() -> None:
    assert len(servers(f"http://a:1-{MOST}/v1")) == MOST


SHOWN = [
    (Server("http://gpu/v1"), "gpu:80", "http://gpu/v1"),
    (Server("https://gpu/v1"), "gpu:443", "https://gpu/v1"),
    (Server("http://[::1]:8000/v1"), "[::1]:8000", "http://[::1]:8000/v1"),
    (Server("http://localhost/v1", "/run/a.sock"), "unix:/run/a.sock", "http://localhost/v1 on unix:/run/a.sock"),
    (Server("http://vllm:8000/v1", every_address=True), "vllm:8000", "http+dns://vllm:8000/v1"),
    (Server("http://vllm:8000/v1", number="10.0.0.7"), "10.0.0.7:8000", "http://vllm:8000/v1 on 10.0.0.7:8000"),
    (Server("https://vllm/v1", number="fd00::7"), "[fd00::7]:443", "https://vllm/v1 on [fd00::7]:443"),
]


@pytest.mark.parametrize(("server", "address", "shown"), SHOWN)
def test_operators_know_a_server_by_host_and_port(server: Server, address: str, shown: str) -> None:
    assert (server.address, str(server)) == (address, shown)


OWN = {"HOST": "127.0.0.1", "PORT": "8003", "GOMODEL_MASTER_KEY": "k"}


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8000-8007/v1", "http://gpu/v1,http://localhost:8003/v1", "http+dns://localhost:8003/v1"]
)
def test_no_server_of_a_list_may_be_the_gateway_itself(text: str) -> None:
    with pytest.raises(ConfigError, match="VLLM_BASE_URL: points at gomodel's own listener"):
        from_environ({**OWN, "VLLM_BASE_URL": text})


def test_instances_that_share_servers_are_warned_of_once() -> None:
    config = from_environ({**OWN, "VLLM_BASE_URL": "http://a:1-9/v1", "VLLM_B_BASE_URL": "http://a:3-7/v1"})
    assert config.warnings == ("VLLM_BASE_URL and VLLM_B_BASE_URL name the same server",)
    config = from_environ(
        {**OWN, "VLLM_BASE_URL": "http://[fd00::1]/v1", "VLLM_B_BASE_URL": "http://[fd00:0::1]:80/v1"}
    )
    assert config.warnings == ("VLLM_BASE_URL and VLLM_B_BASE_URL name the same server",)
