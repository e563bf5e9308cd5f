"""Memory that an upload gave back is there for the next one, without a page from the kernel."""

import platform
import subprocess
import sys

import pytest

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
