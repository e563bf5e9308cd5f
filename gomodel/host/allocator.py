"""What the C library's allocator keeps of the memory that was freed.

Of what is freed at the end of its heap glibc gives back all but 128 KiB, and it maps every block above that anew. A
read of the socket, a prompt, or a picture that is held until its model has come, is as large or larger, so that each
one's pages are taken from the kernel and given back, for up to a third of its cost. Freeing one large block moves both
limits, which is how glibc adapts to programs that use such blocks (mallopt(3), "dynamic mmap threshold"); on another C
library it is nothing but that. What many uploads at once had used beyond the limit goes back when they are over.
"""

# Blocks up to this size come from the heap, of which twice as much may stay unused: six pictures of 5 MB.
KEPT_BYTES = 16 << 20


def keep_freed() -> None:
    """Keep what is freed for the next upload; to be called once."""
    bytes(KEPT_BYTES)  # mapped, and never touched
