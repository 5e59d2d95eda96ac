"""How many threads the kernels share."""

import os

import numba


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_threads() -> int:
    """Threads that kernels may use: one for each core, or what NUMBA_NUM_THREADS says."""
    return min(cores(), numba.config.NUMBA_NUM_THREADS)


class on_threads:
    """Kernels run on so many threads inside; None: on as many as outside."""

    def __init__(self, count: int | None):
        self._count = count

    def __enter__(self) -> None:
        self._before = None if self._count is None else numba.get_num_threads()
        if self._count != self._before:  # setting takes as long as ten atoms
            numba.set_num_threads(self._count)

    def __exit__(self, *_) -> None:
        if self._count != self._before:
            numba.set_num_threads(self._before)
