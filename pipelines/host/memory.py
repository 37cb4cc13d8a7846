"""Keeps a long-running process small and quick: threads share one arena of the C library, which uses blocks again.

Blocks that go back to the system at once come back as pages to be filled with zeros: with a limit of 256 KB, 100,000
events met 350,000 page faults (1.0 CPU s of 3.7), with one of 4 MB 90,000 (0.5), and took 45 MB more; with this one,
15 MB more. What a run needs now, `python -m benchmarks.ingest` prints. Elsewhere than on glibc, nothing happens.
"""

import ctypes
import gc
from contextlib import suppress

import pyarrow as pa

# `mallopt`'s numbers, in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MALLOC_OPTIONS = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: 1 << 20, _M_TRIM_THRESHOLD: 1 << 24}


def give_back() -> None:
    """Gives blocks that are free in the middle of the heap back to the system; 1 ms. After work that took many."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_small() -> None:
    """To be called once, after the imports and before there are threads."""
    gc.freeze()  # what was imported stays: to look through it for garbage takes 50 ms each time
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError, OSError):
        for option, value in _MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)
