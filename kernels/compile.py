"""How every CPU kernel is compiled: two decorators, one set of flags, one cache.

`fastmath` lets the compiler contract a*b + c and reorder sums, so that loops over channels become SIMD; it
does not let it assume that NaN and infinity are absent, since a diverging training run must stay visible.

Compiled kernels are kept on disk. Numba compares only the file of the kernel itself, not those of the
functions that are inlined into it, so the folder is named after the content of this whole package: a changed
kernel is never mixed with an old one.
"""

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Idle threads spin for some ten microseconds, as long as a stage of a kernel waits for its last part, then
# sleep: with as many threads as cores, spinning on costs a factor of ten and more when one other process is
# busy, and waking a thread at every stage a quarter of a small force call. GNU's OpenMP, which Numba uses on
# Linux, reads the count when it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from numba import config, njit  # noqa: E402
from numba.np.ufunc import parallel  # noqa: E402

FAST = {"contract", "reassoc", "nsz", "arcp"}


def _cache_folder() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    base = config.CACHE_DIR or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eqpot"
    return str(Path(base) / content[:16])


CACHE = _cache_folder()


def _compiled(**options: object) -> Callable[[Callable], Callable]:
    def decorate(function: Callable) -> Callable:
        users, config.CACHE_DIR = config.CACHE_DIR, CACHE
        try:
            return njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy", **options)(function)
        finally:
            config.CACHE_DIR = users

    return decorate


# A loop over a fixed partition of the work, shared among threads. The partition depends on shapes alone, so
# results are the same bits for any number of threads.
kernel = _compiled(parallel=True)

# What only kernels call: without the code by which Python would, which is a fifth of the time to compile.
PRIVATE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# What a kernel calls inside its loop. LLVM vectorises a loop over channels only if it can check that what is
# written overlaps nothing that is read, and gives up beyond a handful of arrays: so each loop writes one row.
# Neither these nor routines may allocate: so no reference to an array needs counting, which costs two atomic
# operations for every view and every array passed on, fought over by all threads.
inner = _compiled(forceinline=True, _nrt=False, **PRIVATE)

# What several kernels call, compiled once.
routine = _compiled(_nrt=False, **PRIVATE)

# A routine that allocates.
allocating = _compiled()


def announce(function: Callable, minutes: str = "about a minute") -> None:
    """Say on the terminal that a kernel is about to be compiled, if it never was for this installation."""
    name = f"{function.py_func.__module__.split('.')[-1]}.{function.py_func.__name__}-*.nbi"
    if not function.signatures and not any(Path(function.stats.cache_path).glob(name)):
        print(f"compiling the kernels, once on this machine: {minutes}", file=sys.stderr, flush=True)


def _on_one_thread() -> None:
    """A forked child has none of its parent's threads, and GNU's OpenMP, asked for them, ends it or waits for
    ever: from now on kernels ask for none, whatever number is set."""
    if parallel._is_initialized and parallel.threading_layer() == "omp":
        from numba.np.ufunc import omppool

        ctypes.CFUNCTYPE(None, ctypes.c_int)(omppool.launch_threads)(1)
        parallel._set_num_threads(1)
        parallel._set_num_threads = lambda count: None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_on_one_thread)
