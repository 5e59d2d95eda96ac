"""How many threads the kernels share, and how Python's threads take turns."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar
from weakref import WeakSet

import numba

T = TypeVar("T")

_locks: WeakSet = WeakSet()


def new_lock() -> threading.RLock:
    """A lock that is free in forked children, whose thread never is the one that held it."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _free_locks() -> None:
    for lock in _locks:
        lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)

ONE_FOR_ALL = new_lock()


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


@contextmanager
def beside_kernels() -> Iterator[None]:
    """For kernels in one of Python's threads and Python's own work in another: that one keeps a core.

    Whoever comes back from compiled code waits until the other gives the interpreter up, as a rule 5 ms; with
    many short calls that takes longer than what they do.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        with on_threads(max(1, most_threads() - 1)):
            yield
    finally:
        sys.setswitchinterval(interval)


def later(function: Callable[..., T], *arguments: Any) -> "Future[T]":
    """A call in a thread of its own, which nobody waits for where the process is to end."""
    future = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def one_at_a_time(method: Callable) -> Callable:
    """Threads that call such methods of one object wait for each other, by its `_lock`.

    Kernels work in an object's buffers, and let other threads of Python run meanwhile. On Numba's work queue,
    and on a GPU, where what is recorded would take in what others launch, all objects wait for each other.
    """

    @wraps(method)
    def waiting(self, *args, **kwargs):
        with ONE_FOR_ALL if self.backend == "cuda" or _is_work_queue() else self._lock:
            return method(self, *args, **kwargs)

    return waiting


@cache
def _is_work_queue() -> bool:
    """Whether Numba, without OpenMP, works by what aborts the process when two threads call kernels."""
    numba.get_num_threads()  # which starts its threads: before, nobody knows
    return numba.threading_layer() == "workqueue"
