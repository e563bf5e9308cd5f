"""What the C library's allocator keeps of the memory that was freed.

Of what is freed at the end of its heap glibc gives back all but 128 KiB, and it maps every block above that anew. A
read of the socket, a prompt, or a picture that is held until its model has come, is as large or larger, so that each
one's pages are taken from the kernel and given back, for up to a third of its cost. Freeing one large block moves both
limits, which is how glibc adapts to programs that use such blocks (mallopt(3), "dynamic mmap threshold"); on another C
library it is nothing but that. What many uploads at once had used beyond the limit goes back when they are over.

One small block at its end keeps all that is free before it: what a load has left there goes back while nobody is
served (malloc_trim(3)).
"""

import resource

_PAGE_BYTES = resource.getpagesize()
# What it is worth to look through the heap for.
WORTH_BYTES = 8 << 20

# Blocks up to this size come from the heap, of which twice as much may stay unused: six pictures of 5 MB.
KEPT_BYTES = 16 << 20


def keep_freed() -> None:
    """Keep what is freed for the next upload; to be called once."""
    bytes(KEPT_BYTES)  # mapped, and never touched


class Heap:
    """What a load has left of free memory between what is used, given back while nobody is served."""

    def __init__(self) -> None:
        self._least_bytes = resident_bytes()

    def rest(self) -> None:
        """Nobody is served: give back what is free where there may be much. Takes milliseconds for a gigabyte."""
        held_bytes = resident_bytes()
        if held_bytes >= self._least_bytes + WORTH_BYTES:
            _give_back()
            self._least_bytes = resident_bytes()
        elif held_bytes < self._least_bytes:
            self._least_bytes = held_bytes


def resident_bytes() -> int:
    """The memory that this process has; 0 where nobody tells."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0  # no /proc, as in some sandboxes


def _give_back() -> None:
    import ctypes  # noqa: PLC0415 - of use to those alone who take large bodies

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
