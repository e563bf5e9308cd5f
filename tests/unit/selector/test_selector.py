"""What a selector means: where its instance ends and its model begins, however its bytes are escaped."""

import json

import pytest

from gomodel.selector.selector import prefix_length, split


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("vllm/meta-llama/Llama-3.1-8B", ("vllm", "meta-llama/Llama-3.1-8B")),
        ("vllm/m", ("vllm", "m")),
        ("vllm/", ("vllm", "")),
        ("/m", ("", "m")),
        ("/", ("", "")),
        ("vllm//m", ("vllm", "/m")),
        ("m", None),
    ],
)
def test_a_selector_splits_on_its_first_slash(value: str, parts: tuple[str, str] | None) -> None:
    assert split(value) == parts


@pytest.mark.parametrize(
    ("raw", "length"),
    [
        (rb"vllm/x", 5),
        (rb"vllm/x/y", 5),
        (rb"vllm\/x", 6),
        (rb"vllm\u002fx", 10),
        (rb"vllm\u002Fx/y", 10),
        (rb"vllm/\u002f", 5),
        (rb"vllm\\/x", 7),
        (rb"vllm\\u002f/x", 12),
        (rb"vllm\\\u002f/x", 12),
        (rb"\u0020\u002f", 12),
        (rb"\u002e\/\u002f", 8),
        (rb"/", 1),
        (rb"\u002f", 6),
        (rb"vllm", 0),
        (rb"a\\u002f", 0),
        (rb"\u0020", 0),
        (b"", 0),
    ],
)
def test_a_prefix_ends_behind_the_first_decoded_slash(raw: bytes, length: int) -> None:
    assert prefix_length(raw) == length
    assert json.loads(b'"' + raw[:length] + b'"') == "".join(json.loads(b'"' + raw + b'"').partition("/")[:2]) * bool(
        length
    )
