"""How many threads the kernels share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numba


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_threads() -> int:
    """Threads that kernels may use: one for each core, or what NUMBA_NUM_THREADS says."""
    return min(cores(), numba.config.NUMBA_NUM_THREADS)


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Kernels run on so many threads inside; None: on as many as outside."""
    before = numba.get_num_threads()
    if count in (None, before):  # setting takes as long as ten atoms
        yield
        return
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)
