"""Memory that an upload gave back is there for the next one, without a page from the kernel."""

import platform
import subprocess
import sys

import pytest

from gomodel.host import allocator
from gomodel.host.allocator import WORTH_BYTES

FAULTS = """
import resource, sys
from gomodel.host.allocator import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for size in range(60_000, 300_000, 5_000):
    read = bytearray(size)
    for _ in range(20):
        piece, copy = bytes(read), bytes(read)
        del piece, copy
read = bytearray(128 << 10)
for _ in range(10):  # as four pictures of 5 MB whose model stands behind them
    held = [bytes(read) for _ in range(160)]
    del held
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other limits")
def test_what_is_freed_is_used_again():
    found = [int(subprocess.check_output([sys.executable, "-c", FAULTS, how])) for how in ("kept", "given back")]
    assert found[0] * 3 < found[1]


LEFT = """
from gomodel.host.allocator import Heap, WORTH_BYTES, keep_freed, resident_bytes
keep_freed()
heap = Heap()
before = resident_bytes()
held = [bytes(100_000) for _ in range(WORTH_BYTES // 50_000)]
pin = bytes(100_000)  # behind them
del held
left = resident_bytes() - before
heap.rest()
print(left, resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other limits")
def test_what_a_load_left_below_a_block_that_is_used_is_given_back_at_rest():
    left, after = map(int, subprocess.check_output([sys.executable, "-c", LEFT]).split())
    assert left > WORTH_BYTES
    assert after < WORTH_BYTES / 2


@pytest.mark.parametrize(
    ("held", "given_back"),
    [
        ([100, 100, 107], 0),  # not worth it
        ([100, 108], 1),
        ([100, 108, 108, 115], 1),  # it was of no use: not again until there is more
        ([100, 90, 98], 1),  # more than the least there was
        ([100, 108, 92, 99, 100], 2),
    ],
)
def test_it_is_given_back_where_there_is_much_more_than_at_the_least(monkeypatch, held, given_back):
    told, calls = iter(held), []
    now = [next(told)]
    monkeypatch.setattr(allocator, "resident_bytes", lambda: now[0] << 20)
    monkeypatch.setattr(allocator, "_give_back", lambda: calls.append(None))
    heap = allocator.Heap()
    for now[0] in told:
        heap.rest()
    assert len(calls) == given_back
