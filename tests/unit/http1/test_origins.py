"""What pages of other origins are told, and under which names the gateway may be known; no request is made."""

import pytest

from gomodel.http1.origins import ANY, Origins

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
