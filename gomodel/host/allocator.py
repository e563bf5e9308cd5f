"""What the C library's allocator keeps of the memory that was freed.

Of what is freed at the end of its heap glibc gives back all but 128 KiB, and it maps every block above that anew. A
read of the socket, or a prompt, is about as large, so that each one's pages are taken from the kernel and given back,
for up to a third of what a long prompt costs. Freeing one large block moves both limits, which is how glibc adapts to
programs that use such blocks (mallopt(3), "dynamic mmap threshold"); on another C library it is nothing but that.
"""

# Blocks up to this size come from the heap, of which twice as much may stay unused.
KEPT_BYTES = 4 << 20


def keep_freed() -> None:
    """Keep what is freed for the next upload; to be called once."""
    bytes(KEPT_BYTES)  # mapped, and never touched
