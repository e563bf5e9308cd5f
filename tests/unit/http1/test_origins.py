"""What pages of other origins are told, and under which names the gateway may be known; no request is made."""

import pytest

from gomodel.http1.origins import ANY, Origins, is_loopback, is_private_name, same_site

APP = "https://app.example"


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        ((APP,), b"https://app.example", True),
        ((APP,), b"HTTPS://App.Example", True),
        ((APP,), b"http://app.example", False),
        ((APP,), b"https://app.example:8443", False),
        ((APP,), b"https://app.example.evil.test", False),
        ((APP,), b"null", False),
        ((), b"https://app.example", False),
        ((ANY,), b"https://anything.test", True),
        ((ANY,), b"null", True),
    ],
)
def test_an_origin_is_allowed_as_a_whole_or_not(allowed, origin, may):
    origins = Origins(allowed)
    assert origins.allow(origin) is may
    told = origins.fields(origin)
    assert ("Access-Control-Allow-Origin" in told) is may
    assert "Access-Control-Allow-Credentials" not in told
    # Whatever depends on the origin must not be given to another one by a cache.
    assert (told.get("Vary") == "Origin") is (ANY not in allowed)
    if may:
        assert told["Access-Control-Allow-Origin"] == (ANY if ANY in allowed else origin.decode())


def test_without_an_origin_a_cache_learns_that_there_might_be_one():
    assert Origins((APP,)).fields(None) == {"Vary": "Origin"}
    assert Origins((ANY,)).fields(None)["Access-Control-Allow-Origin"] == ANY


def test_a_page_that_may_read_an_answer_may_read_all_its_fields():
    allowed = {"Access-Control-Allow-Origin": APP, "Access-Control-Expose-Headers": "*", "Vary": "Origin"}
    assert Origins((APP,)).fields(APP.encode()) == allowed
    anybody = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
    assert Origins((ANY,)).fields(APP.encode()) == anybody


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (b"https://app.example", b"app.example", True),
        (b"http://app.example", b"APP.example:443", True),
        (b"http://app.example:80", b"app.example:", True),
        (b"http://app.example:8080", b"app.example:8080", True),
        (b"http://app.example:8080", b"app.example", False),
        (b"http://evil.test", b"app.example", False),
        (b"null", b"app.example", False),
        (b"http://app.example", None, False),
    ],
)
def test_a_page_is_of_the_site_whose_host_it_was_served_under(origin, host, same):
    assert same_site(origin, host) is same


@pytest.mark.parametrize(
    ("allowed", "host", "serves"),
    [
        ((APP,), b"app.example", True),
        ((APP,), b"APP.example:443", True),
        ((APP,), b"app.example:8443", False),
        ((APP,), b"evil.test", False),
        (("http://app.example:3000",), b"app.example:3000", True),
        ((ANY,), b"evil.test", True),
        ((), b"", False),
    ],
)
def test_the_names_of_allowed_origins_are_the_gateways_as_well(allowed, host, serves):
    assert Origins(allowed).serves(host) is serves


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ("authorization, content-type", "authorization, content-type"),
        ("", None),
        ("x\r\ny", None),
        ("x<y", None),
        ("a" * 4096, "a" * 4096),
        ("a" * 4097, None),
    ],
)
@pytest.mark.parametrize("private_network", [False, True])
def test_a_preflight_is_told_the_names_it_asked_for_when_they_are_names(headers, allowed, private_network):
    told = Origins((APP,)).preflight(headers, private_network=private_network)
    assert told.get("Access-Control-Allow-Headers") == allowed
    assert told.get("Access-Control-Allow-Private-Network") == ("true" if private_network else None)
    assert "POST" in told["Access-Control-Allow-Methods"]
    assert told["Vary"].split(", ")[0] == "Origin"
    assert int(told["Access-Control-Max-Age"]) > 0


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("gateway", False),
        ("", False),
    ],
)
def test_a_listener_is_reached_from_its_own_machine_alone_or_from_others(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "private"),
    [
        (b"127.0.0.1:8080", True),
        (b"[::1]:8080", True),
        (b"10.0.0.1", True),
        (b"8.8.8.8", True),
        (b"localhost:8080", True),
        (b"Gateway:8080", True),
        (b"gateway.local", True),
        (b"GATEWAY.Internal.:80", True),
        (b"gateway.test", True),
        (b"app.localhost", True),
        (b"gateway.example", False),
        (b"gateway.example:8080", False),
        (b"local.example", False),
        (b"evil-local.com", False),
        (b"127.0.0.1.evil.com", False),
    ],
)
def test_a_name_that_nobody_can_register_is_private(host, private):
    assert is_private_name(host) is private
