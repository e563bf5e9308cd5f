"""What was cut out of a body is put back into its sum, however the body is divided."""

from zlib import crc32

import pytest

from gomodel.relay.sums import Restored

CAME = b'{"x":1,"model":"vllm/m","y":2}'
AT = CAME.index(b"vllm")
CUTS = [
    ("nothing", 0, b"", b"", CAME),
    ("a prefix", AT, b"vllm/", b"", CAME.replace(b"vllm/", b"")),
    ("a model for another", AT, b"vllm/m", b"org/other", CAME.replace(b"vllm/m", b"org/other")),
    ("at the start", 0, b'{"', b"", CAME[2:]),
    ("at the end", len(CAME) - 1, b"}", b"]", CAME[:-1] + b"]"),
]


def restored(at, taken, instead, pieces):
    found = Restored(at, taken, instead)
    for piece in pieces:
        found.feed(piece)
    return found.crc


@pytest.mark.parametrize(("at", "taken", "instead", "out"), [each[1:] for each in CUTS], ids=[each[0] for each in CUTS])
def test_what_was_cut_is_put_back(at, taken, instead, out):
    assert restored(at, taken, instead, [out]) == crc32(CAME)
    assert restored(at, taken, instead, [bytes([each]) for each in out]) == crc32(CAME)
    for middle in range(len(out)):
        assert restored(at, taken, instead, [out[:middle], out[middle:]]) == crc32(CAME)
        changed = out[:middle] + bytes([out[middle] ^ 1]) + out[middle + 1 :]
        assert restored(at, taken, instead, [changed]) != crc32(CAME)
