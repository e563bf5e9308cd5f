"""URLs that name no place say what is wrong with them."""

import pytest

from gomodel.doctor.places import place_of


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("ftp://x", "it is no http:// or https:// URL"),
        ("http://", "it is no http:// or https:// URL"),
        ("http://x:65536", "its port is no number up to 65535"),
        ("x:http", "its port is no number up to 65535"),
        ("http://[::1", "its host is no IPv6 address in brackets"),
        ("http://[nine]:80", "its host is no IPv6 address in brackets"),
    ],
)
def test_what_is_wrong_with_a_url(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        place_of(url, None)


@pytest.mark.parametrize(
    ("url", "shown", "port"),
    [
        ("http://[::1]:8000/v1", "http://[::1]:8000", 8000),
        ("https://x", "https://x", 443),
        ("x:8000/base/v1/", "http://x:8000/base", 8000),
    ],
)
def test_a_url_names_a_place(url: str, shown: str, port: int) -> None:
    place = place_of(url, None)
    assert (place.shown, place.port) == (shown, port)
